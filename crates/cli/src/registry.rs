//! What goes to registries: pushes, searches, and logins, which are kept where Docker's clients keep them.

use std::io::Read;

use api::client::Client;
use api::image::{AuthRequest, PushAux};
use clap::Args;
use credentials::{Auth, DockerConfig, Kept, docker_config_auth, key_of, registry_of};
use futures_util::StreamExt;
use model::{Platform, Reference};

use crate::containers::filters;
use crate::exit::{Failure, Outcome};
use crate::images::View;
use crate::table::{self, Columns, FormatArgs, Row};
use crate::{printer, terminal};

/// Flags of `push`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cove push localhost:5000/app:1.2\n  cove push -a ghcr.io/owner/app")]
pub(crate) struct PushArgs {
    /// Push every tag that the repository has here
    #[arg(short, long)]
    all_tags: bool,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Push only an image for this: linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// The image
    image: String,
}

pub(crate) async fn push(client: &Client, args: PushArgs) -> Outcome {
    let reference = args.image.parse::<Reference>().map_err(|error| Failure::new(error.to_string()))?;
    if reference.digest().is_some() {
        return Err(Failure::new("cannot push a digest reference"));
    }
    let name = reference.familiar_name();
    let has_tag = args.image.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/'));
    let tag = match (args.all_tags, has_tag) {
        (true, true) => return Err(Failure::new("tag can't be used with --all-tags/-a")),
        (true, false) => None,
        (false, _) => reference.tag(),
    };
    if !args.all_tags && !has_tag && !args.quiet {
        printer::note("Using default tag: latest");
    }
    let platform = args.platform.as_deref().map(str::parse::<Platform>).transpose();
    let platform = platform.map_err(|error| Failure::new(error.to_string()))?;
    let auth = auth_for(&args.image);
    let mut lines = client.push_image(&name, tag, platform.as_ref(), auth.as_deref()).await?;
    let mut view = View::new(args.quiet);
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(error) = line.error {
            return Err(Failure::new(error));
        }
        view.show(&line);
        if let Some(PushAux::Instead(instead)) = &line.aux {
            printer::note(format_args!(
                "Not all multiplatform-content is present and only the available single-platform image was pushed\n{} -> {}",
                instead.original_index.digest, instead.selected_manifest.digest
            ));
        }
    }
    if args.quiet {
        let full = format!("{}/{}", reference.registry(), reference.repository());
        printer::line(tag.map_or_else(|| full.clone(), |tag| format!("{full}:{tag}")));
    }
    Ok(0)
}

/// The user's login for an image's registry, in the form that the engine takes. Where there is none,
/// the engine looks for its own.
pub(crate) fn auth_for(image: &str) -> Option<String> {
    let reference: Reference = image.parse().ok()?;
    docker_config_auth(reference.registry()).map(|auth| auth.to_header())
}

/// Flags of `login`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cove login ghcr.io -u me\n  cove login -u me --password-stdin < token.txt"
)]
pub(crate) struct LoginArgs {
    /// The user
    #[arg(short, long)]
    username: Option<String>,
    /// The password or access token; others of this computer may see it
    #[arg(short, long)]
    password: Option<String>,
    /// Read the password or access token from standard input
    #[arg(long)]
    password_stdin: bool,
    /// The registry; else Docker Hub
    server: Option<String>,
}

pub(crate) async fn login(client: &Client, args: LoginArgs) -> Outcome {
    let registry = registry_of(args.server.as_deref().unwrap_or_default()).to_owned();
    let password = given_password(&args)?;
    let mut config = DockerConfig::load()?;
    let known = config.find(&registry);
    if args.username.is_none()
        && password.is_none()
        && let Some(known) = &known
    {
        printer::note(format_args!(
            "Authenticating with existing credentials... [Username: {}]",
            known.username
        ));
        match check(client, &registry, known).await {
            Ok(_) => {
                printer::line("Login Succeeded");
                return Ok(0);
            }
            Err(failure) if !terminal::is_input() => return Err(failure),
            Err(failure) => printer::note(format_args!("Login did not succeed, error: {}", failure.message)),
        }
    }
    let auth = ask_for(args.username, password, known.map(|known| known.username))?;
    let token = check(client, &registry, &auth).await?;
    // A token stands for the password, which is not kept then.
    let kept =
        if token.is_empty() { auth } else { Auth { password: String::new(), identity_token: token, ..auth } };
    if let Kept::Plain(path) = config.keep(&registry, &kept)? {
        printer::note(format_args!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            path.display()
        ));
    }
    printer::line("Login Succeeded");
    Ok(0)
}

/// The password of the flags.
fn given_password(args: &LoginArgs) -> Outcome<Option<String>> {
    if let Some(password) = &args.password {
        if args.password_stdin {
            return Err(Failure::new(
                "conflicting options: cannot specify both --password and --password-stdin",
            ));
        }
        printer::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        return Ok(Some(password.clone()));
    }
    if !args.password_stdin {
        return Ok(None);
    }
    if args.username.as_deref().unwrap_or_default().is_empty() {
        return Err(Failure::new("the --password-stdin option requires --username to be set"));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// Asks for what is missing.
fn ask_for(username: Option<String>, password: Option<String>, usual: Option<String>) -> Outcome<Auth> {
    let is_whole = username.as_ref().is_some_and(|name| !name.is_empty())
        && password.as_ref().is_some_and(|password| !password.is_empty());
    if !is_whole && !terminal::is_input() {
        return Err(Failure::new("Cannot perform an interactive login from a non TTY device"));
    }
    let username = match username.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => {
            let usual = usual.filter(|name| !name.is_empty());
            let hint = usual.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            let said = terminal::ask(&format!("Username{hint}: "))?;
            if said.is_empty() { usual.unwrap_or_default() } else { said }
        }
    };
    if username.is_empty() {
        return Err(Failure::new("username is required"));
    }
    let password = match password.filter(|password| !password.is_empty()) {
        Some(password) => password,
        None => terminal::ask_secret("Password: ")?,
    };
    if password.is_empty() {
        return Err(Failure::new("password is required"));
    }
    Ok(Auth { username, password, identity_token: String::new() })
}

/// Has the engine try a login; the token that stands for it from now on, where the registry gives one.
async fn check(client: &Client, registry: &str, auth: &Auth) -> Outcome<String> {
    let request = AuthRequest {
        username: auth.username.clone(),
        password: auth.password.clone(),
        identitytoken: auth.identity_token.clone(),
        serveraddress: key_of(registry).to_owned(),
        ..AuthRequest::default()
    };
    Ok(client.login(&request).await?.identity_token)
}

/// Flags of `logout`.
#[derive(Args, Debug)]
pub(crate) struct LogoutArgs {
    /// The registry; else Docker Hub
    server: Option<String>,
}

pub(crate) fn logout(args: &LogoutArgs) -> Outcome {
    let registry = registry_of(args.server.as_deref().unwrap_or_default());
    printer::line(format_args!("Removing login credentials for {}", key_of(registry)));
    DockerConfig::load()?.forget(registry)?;
    Ok(0)
}

/// Flags of `search`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cove search nginx\n  cove search --filter is-official=true --limit 5 postgres"
)]
pub(crate) struct SearchArgs {
    /// is-official=true, stars=10
    #[arg(short, long)]
    filter: Vec<String>,
    /// At most so many, up to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Print descriptions in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: FormatArgs,
    /// What to look for; at another registry than Docker Hub: host/word
    term: String,
}

const SEARCH: &Columns = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

pub(crate) async fn search(client: &Client, args: SearchArgs) -> Outcome {
    let host = args.term.split_once('/').map(|(host, _)| host).filter(|host| host.contains(['.', ':']));
    let auth = docker_config_auth(host.unwrap_or("docker.io")).map(|auth| auth.to_header());
    let found =
        client.search_images(&args.term, args.limit, &filters(&args.filter)?, auth.as_deref()).await?;
    let mark = |is_so: bool| String::from(if is_so { "[OK]" } else { "" });
    let rows = found.into_iter().map(|one| {
        let description = one.description.replace(['\n', '\r'], " ");
        let description = if args.no_trunc { description } else { shortened(&description) };
        let (is_official, is_automated) = (mark(one.is_official), mark(one.is_automated));
        Row::new(SEARCH, [one.name, description, one.star_count.to_string(), is_official, is_automated])
    });
    table::print(&args.format, SEARCH, 4, rows.collect())?;
    Ok(0)
}

/// As long as a column may be.
fn shortened(text: &str) -> String {
    const MOST: usize = 45;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}
