//! How machines stand: `machine status` and `machine ls`.

use clap::Args;
use host::machine::{Machine, Phase, Status, size};
use indicatif::{ProgressBar, ProgressStyle};

use super::{find, machine_error};
use crate::exit::Outcome;
use crate::printer;
use crate::table::{Columns, FormatArgs, Row, print, print_value};

/// Turns while a machine starts.
pub(super) fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    // The template is ours and sound; the plain one is as good.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

pub(super) async fn status(name: &str, format: Option<&str>) -> Outcome {
    let status = find(name)?.status().await.map_err(machine_error)?;
    if let Some(format) = format.filter(|format| !format.is_empty()) {
        print_value(format, &serde_json::to_value(&status).unwrap_or_default())?;
        return Ok(0);
    }
    let backend = status.backend;
    let reason = tokio::task::spawn_blocking(move || host::machine::reason_for(backend)).await;
    let mut lines = lines(&status);
    if let Ok(Some(reason)) = reason {
        // Behind name, state and backend.
        lines.insert(3, ("because", reason));
    }
    for (label, value) in lines {
        printer::line(format_args!("{label:<11} {value}"));
    }
    for warning in &status.warnings {
        printer::note(format_args!("warning: {warning}"));
    }
    if let Some(failure) = &status.failure {
        printer::note(format_args!("\n{}", failure.cause));
        if !failure.console.is_empty() {
            printer::note(format_args!("\nlast lines of its console:\n{}", failure.console));
        }
        printer::note(format_args!("\nhint: {}: {}", failure.remedy.text, failure.remedy.command));
    }
    Ok(0)
}

fn lines(status: &Status) -> Vec<(&'static str, String)> {
    let config = &status.config;
    let mut lines =
        vec![("name", status.name.clone()), ("state", state(status)), ("backend", backend(status))];
    if !status.kernel.is_empty() && status.pid.is_some() {
        lines.push(("kernel", status.kernel.clone()));
    }
    lines.push(("processors", config.cpus.to_string()));
    let memory = status.report.as_ref().map_or_else(String::new, |report| {
        let used = size::show(report.memory_used);
        status.memory_here.map_or_else(
            || format!(", {used} used"),
            |here| format!(", {used} used, {} of this computer's taken", size::show(here)),
        )
    });
    lines.push(("memory", format!("{}{memory}", size::show(config.memory))));
    let used = status
        .report
        .as_ref()
        .map_or_else(String::new, |report| format!("{} used, ", size::show(report.disk_used)));
    lines.push((
        "disk",
        format!("{}, {used}{} on this computer", size::show(config.disk), size::show(status.disk_here)),
    ));
    for share in &config.shares {
        let access = if share.read_only { " (read-only)" } else { "" };
        lines.push(("share", format!("{}{access}", share.path.display())));
    }
    if let Some(image) = &status.image {
        lines.push(("image", image.clone()));
    }
    if matches!(status.phase, Phase::Running) {
        lines.push(("engine", format!("unix://{}", status.engine.display())));
    }
    if !status.ports.is_empty() {
        lines.push(("ports", status.ports.join(", ")));
    }
    if !status.took.is_empty() {
        let took: Vec<String> =
            status.took.iter().map(|(stage, ms)| format!("{} {ms} ms", stage.name())).collect();
        lines.push(("stages", took.join(", ")));
    }
    lines
}

fn state(status: &Status) -> String {
    let stage = status.stage.map_or_else(String::new, |stage| format!(" at {}", stage.name()));
    let detail = if status.detail.is_empty() { String::new() } else { format!(": {}", status.detail) };
    format!("{}{stage}{detail}", status.phase.name())
}

fn backend(status: &Status) -> String {
    let acceleration = &status.acceleration;
    if acceleration.is_empty() {
        status.backend.to_string()
    } else {
        format!("{} ({acceleration})", status.backend)
    }
}

/// Flags of `machine ls`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: FormatArgs,
}

const MACHINES: &Columns = &[
    ("Name", "NAME"),
    ("State", "STATE"),
    ("Backend", "BACKEND"),
    ("CPUs", "CPUS"),
    ("Memory", "MEMORY"),
    ("Disk", "DISK"),
    ("Engine", "ENGINE"),
];

pub(super) async fn list(args: ListArgs) -> Outcome {
    let machines = Machine::all().map_err(machine_error)?;
    if args.quiet {
        machines.iter().for_each(|machine| printer::line(&machine.places().name));
        return Ok(0);
    }
    let mut rows = Vec::new();
    for machine in &machines {
        let status = machine.status().await.map_err(machine_error)?;
        let values = [
            status.name.clone(),
            state(&status),
            status.backend.to_string(),
            status.config.cpus.to_string(),
            size::show(status.config.memory),
            format!("{} of {}", size::show(status.disk_here), size::show(status.config.disk)),
            format!("machine://{}", status.name),
        ];
        rows.push(Row::new(MACHINES, values));
    }
    if machines.is_empty() && args.format.format.is_none() {
        printer::note("There is no machine. 'cove machine init' makes one, 'cove machine start' starts it.");
        return Ok(0);
    }
    print(&args.format, MACHINES, MACHINES.len(), rows)?;
    Ok(0)
}
