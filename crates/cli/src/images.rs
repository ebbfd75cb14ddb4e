//! Verbs about images.

use std::collections::HashMap;
use std::io::IsTerminal;

use api::client::Client;
use api::client::images::{ImportImage, RemoveImage};
use clap::Args;
use futures_util::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::containers::for_each;
use crate::exit::{Failure, Outcome};
use crate::printer;

/// Flags of `pull`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cove pull alpine:3.20\n  cove pull localhost:5000/app")]
pub(crate) struct PullArgs {
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Where an image is for several: linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// The image
    image: String,
}

pub(crate) async fn pull_verb(client: &Client, args: PullArgs) -> Outcome {
    pull(client, &args.image, args.platform.as_deref(), args.quiet).await?;
    if args.quiet {
        printer::line(&args.image);
    }
    Ok(0)
}

/// Pulls, with a bar a layer on a terminal and lines elsewhere.
pub(crate) async fn pull(
    client: &Client,
    image: &str,
    platform: Option<&str>,
    is_quiet: bool,
) -> Outcome<()> {
    let mut lines = client.pull_image(image, platform, crate::registry::auth_for(image).as_deref()).await?;
    let mut view = View::new(is_quiet);
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(error) = line.error {
            return Err(Failure::new(error));
        }
        view.show(&line);
    }
    Ok(())
}

pub(crate) struct View {
    is_quiet: bool,
    bars: Option<(MultiProgress, HashMap<String, ProgressBar>)>,
}

impl View {
    pub(crate) fn new(is_quiet: bool) -> Self {
        let has_bars = !is_quiet && std::io::stderr().is_terminal();
        Self { is_quiet, bars: has_bars.then(|| (MultiProgress::new(), HashMap::new())) }
    }

    pub(crate) fn show(&mut self, line: &api::image::Progress) {
        let status = line.status.as_deref().unwrap_or_default();
        if self.is_quiet || status.is_empty() {
            return;
        }
        let is_layer = line.progress_detail.is_some();
        match (&mut self.bars, &line.id) {
            (Some((all, bars)), Some(id)) if is_layer => {
                let bar = bars.entry(id.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(0));
                    let style =
                        ProgressStyle::with_template("{prefix}: {msg:16} {bar:30} {bytes}/{total_bytes}");
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.set_prefix(id.clone());
                    bar
                });
                bar.set_message(status.to_owned());
                let detail = line.progress_detail.clone().unwrap_or_default();
                if let (Some(current), Some(total)) = (detail.current, detail.total) {
                    bar.set_length(total);
                    bar.set_position(current);
                }
                let is_done =
                    matches!(status, "Pull complete" | "Already exists" | "Pushed" | "Layer already exists");
                if is_done || status.starts_with("Mounted from") {
                    let style = ProgressStyle::with_template("{prefix}: {msg}");
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.finish();
                }
            }
            (Some((all, _)), id) => {
                let text = id.as_ref().map_or_else(|| status.to_owned(), |id| format!("{id}: {status}"));
                // A terminal that refuses a line refuses the bars too.
                let _ = all.println(text);
            }
            // Without a terminal, figures would be noise.
            (None, _) if line.progress_detail.as_ref().is_some_and(|detail| detail.current.is_some()) => {}
            (None, Some(id)) => printer::note(format_args!("{id}: {status}")),
            (None, None) => printer::note(status),
        }
    }
}

/// Flags of `rmi`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Also where stopped containers use it
    #[arg(short, long)]
    force: bool,
    /// The images
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn remove(client: &Client, args: RemoveArgs) -> Outcome {
    for_each(&args.names, |name| async move {
        let options = RemoveImage { force: args.force, ..RemoveImage::default() };
        for part in client.remove_image(&name, options).await? {
            if let Some(name) = part.untagged {
                printer::line(format_args!("Untagged: {name}"));
            }
            if let Some(id) = part.deleted {
                printer::line(format_args!("Deleted: {id}"));
            }
        }
        Ok(())
    })
    .await
}

/// Flags of `tag`.
#[derive(Args, Debug)]
pub(crate) struct TagArgs {
    /// The image
    source: String,
    /// Its other name
    target: String,
}

pub(crate) async fn tag(client: &Client, args: TagArgs) -> Outcome {
    let (repository, tag) = match args.target.rsplit_once(':') {
        // A colon before a slash is a port's.
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (args.target.as_str(), None),
    };
    client.tag_image(&args.source, repository, tag).await?;
    Ok(0)
}

/// Flags of `save`.
#[derive(Args, Debug)]
pub(crate) struct SaveArgs {
    /// Where to; else standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// The images
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn save(client: &Client, args: SaveArgs) -> Outcome {
    if args.output.is_none() && printer::is_terminal() {
        return Err(Failure::new("cowardly refusing to save to a terminal: use -o FILE or redirect"));
    }
    let body = client.save_images(&args.names).await?;
    crate::containers::write_out(body, args.output.as_deref()).await
}

/// Flags of `load`.
#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// Where from; else standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<String>,
}

/// An archive on its way to the engine.
type Archive = ReaderStream<Box<dyn AsyncRead + Send + Unpin>>;

/// Opens a file, or standard input where there is none; `hint` is for who sits at a terminal there.
async fn archive(file: Option<&str>, hint: &str) -> Outcome<Archive> {
    let reader: Box<dyn AsyncRead + Send + Unpin> = match file {
        Some(file) => {
            let open = tokio::fs::File::open(file).await;
            Box::new(open.map_err(|error| Failure::new(format!("{file}: {error}")))?)
        }
        None if crate::terminal::is_input() => return Err(Failure::new(hint)),
        None => Box::new(tokio::io::stdin()),
    };
    Ok(ReaderStream::with_capacity(reader, 128 * 1024))
}

pub(crate) async fn load(client: &Client, args: LoadArgs) -> Outcome {
    let hint = "requested load from stdin, but stdin is empty: use -i FILE or redirect";
    let mut lines = client.load_images(false, archive(args.input.as_deref(), hint).await?).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(error) = line.error {
            return Err(Failure::new(error));
        }
        if let Some(text) = line.stream {
            printer::line(text.trim_end());
        }
    }
    Ok(0)
}

/// Flags of `import`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cove export box | cove import - flat:1\n  cove import -c 'CMD [\"sh\"]' rootfs.tar.gz mine"
)]
pub(crate) struct ImportArgs {
    /// A Dockerfile instruction to apply: 'CMD ["sh"]', 'ENV A=1'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What it is
    #[arg(short, long)]
    message: Option<String>,
    /// What its programs are for: linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// A tar archive, compressed or not; - is standard input
    file: String,
    /// The image's name
    image: Option<String>,
}

pub(crate) async fn import(client: &Client, args: ImportArgs) -> Outcome {
    if args.file.starts_with("http://") || args.file.starts_with("https://") {
        return Err(Failure::new(format!(
            "{} is not downloaded: fetch it, and import the file or pipe it to 'cove import -'",
            args.file
        )));
    }
    let image = ImportImage {
        name: args.image.as_deref(),
        message: args.message.as_deref(),
        changes: &args.change,
        platform: args.platform.as_deref(),
    };
    let file = Some(args.file.as_str()).filter(|file| *file != "-");
    let archive = archive(file, "nothing is piped here: name a file or redirect").await?;
    let mut lines = client.import_image(image, archive).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(error) = line.error {
            return Err(Failure::new(error));
        }
        if let Some(id) = line.status {
            printer::line(id);
        }
    }
    Ok(0)
}
