//! The tray's menu: what stands in it, and what its lines do.

use super::command::Command;
use super::hub::{EngineState, Health};
use super::machine::row::StageState;
use super::machine::{MachineOrder, MachinePhase, MachineRow, MachineStage};
use super::row::{ContainerRow, Shape};

/// A line of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A text that does nothing.
    Label(String),
    /// Something to do: an id for [`action_of`], and a text.
    Action(String, String),
    /// A line that opens further ones.
    Submenu(String, Vec<Line>),
    /// A rule between groups.
    Rule,
}

/// What a line does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Show the window.
    Open,
    /// Show the window with the run dialog.
    Run,
    /// End the program. Containers go on.
    Quit,
    /// Open a container's port in the user's browser.
    OpenUrl(String),
    /// Something for the engine.
    Call(Command),
}

/// More containers than this make no menu but a list, and the window has one.
const MOST: usize = 16;
/// Likewise of one container's ports.
const MOST_PORTS: usize = 8;

/// The menu for what there is.
#[must_use]
pub fn menu(engine: &EngineState, containers: &[ContainerRow], machines: &[MachineRow]) -> Vec<Line> {
    let mut lines = vec![Line::Label(state(engine, containers))];
    lines.extend(machines.iter().take(MOST).map(machine));
    lines.push(Line::Rule);
    if engine.state == Health::Running {
        let containers = projects(containers);
        if !containers.is_empty() {
            lines.extend(containers);
            lines.push(Line::Rule);
        }
        lines.push(action("open", "Open Cove"));
        lines.push(action("run", "Run…"));
    } else {
        if engine.state == Health::Away {
            lines.push(action("start-engine", "Start the engine"));
        }
        lines.push(action("open", "Open Cove"));
    }
    lines.push(Line::Rule);
    lines.push(action("quit", "Quit Cove"));
    lines
}

/// What a line of [`menu`] does, by its id.
#[must_use]
pub fn action_of(id: &str) -> Option<Action> {
    Some(match id.split_once(' ') {
        None => match id {
            "open" => Action::Open,
            "run" => Action::Run,
            "quit" => Action::Quit,
            "start-engine" => Action::Call(Command::EngineStart),
            _ => return None,
        },
        Some(("open-url", url)) => Action::OpenUrl(url.to_owned()),
        Some(("machine", what)) => {
            let (verb, name) = what.split_once(' ')?;
            let name = name.to_owned();
            let order = match verb {
                "start" => MachineOrder::Start { name },
                "stop" => MachineOrder::Stop { name },
                "kill" => MachineOrder::Kill { name },
                _ => return None,
            };
            Action::Call(Command::Machine { order })
        }
        Some((verb, id)) => {
            let id = id.to_owned();
            Action::Call(match verb {
                "start" => Command::ContainerStart { id },
                "stop" => Command::ContainerStop { id },
                "restart" => Command::ContainerRestart { id },
                "resume" => Command::ContainerResume { id },
                _ => return None,
            })
        }
    })
}

fn action(id: &str, text: &str) -> Line {
    Line::Action(id.to_owned(), text.to_owned())
}

fn state(engine: &EngineState, containers: &[ContainerRow]) -> String {
    match engine.state {
        Health::Starting => "Engine is starting".to_owned(),
        Health::Away => "Engine isn’t answering".to_owned(),
        Health::Running => match containers.iter().filter(|row| row.state == "running").count() {
            0 => "Engine is running".to_owned(),
            1 => "Engine is running, 1 container".to_owned(),
            count => format!("Engine is running, {count} containers"),
        },
    }
}

/// Projects first, each as one line; then what belongs to none and runs or has failed, then what was
/// stopped, newest first.
fn projects(containers: &[ContainerRow]) -> Vec<Line> {
    let mut rows: Vec<_> = containers.iter().collect();
    rows.sort_by(|a, b| a.title.cmp(&b.title));
    let mut names: Vec<_> = rows.iter().filter_map(|row| row.project.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    let mut lines = Vec::new();
    for name in names {
        let members: Vec<_> = rows.iter().filter(|row| row.project.as_deref() == Some(name)).collect();
        let running = members.iter().filter(|row| row.state == "running").count();
        let text = format!("{} {name}  {running} of {}", mark(worst(&members)), members.len());
        lines.push(Line::Submenu(text, members.iter().map(|row| container(row)).collect()));
    }
    let mut loose: Vec<_> = rows.into_iter().filter(|row| row.project.is_none()).collect();
    loose.sort_by_key(|row| (row.state != "running" && row.state != "paused", row.shape != Shape::Failed));
    let room = MOST.saturating_sub(lines.len());
    let more = loose.len().saturating_sub(room);
    lines.extend(loose.into_iter().take(room).map(container));
    if more > 0 {
        lines.push(action("open", &format!("{more} more…")));
    }
    lines
}

fn worst(members: &[&&ContainerRow]) -> Shape {
    let rank = |shape: Shape| match shape {
        Shape::Failed => 0,
        Shape::Unhealthy => 1,
        Shape::Starting => 2,
        Shape::Running => 3,
        Shape::Paused => 4,
        Shape::Exited => 5,
    };
    members.iter().map(|row| row.shape).min_by_key(|shape| rank(*shape)).unwrap_or_default()
}

/// A menu has no colours of ours, so that shapes must do.
fn mark(shape: Shape) -> char {
    match shape {
        Shape::Running => '●',
        Shape::Starting => '◔',
        Shape::Paused => '‖',
        Shape::Exited => '○',
        Shape::Unhealthy => '▲',
        Shape::Failed => '✕',
    }
}

/// A machine with its state, and what can be done about it.
fn machine(row: &MachineRow) -> Line {
    let name = &row.name;
    let line = |verb: &str, text: &str| action(&format!("machine {verb} {name}"), text);
    let (mark, words, mut lines) = match row.phase {
        MachinePhase::Stopped => ('○', "stopped".to_owned(), vec![line("start", "Start")]),
        MachinePhase::Starting => ('◔', starting(row), vec![line("stop", "Stop")]),
        MachinePhase::Running if !row.warnings.is_empty() => {
            let problems = if row.warnings.len() == 1 { "problem" } else { "problems" };
            ('▲', format!("running, {} {problems}", row.warnings.len()), vec![line("stop", "Stop")])
        }
        // No figures: each change of the menu closes one that is open.
        MachinePhase::Running => ('●', "running".to_owned(), vec![line("stop", "Stop")]),
        MachinePhase::Rescue => ('▲', "rescue".to_owned(), vec![line("stop", "Stop")]),
        MachinePhase::FallingAsleep => ('◔', "falling asleep".to_owned(), vec![line("kill", "End at Once")]),
        MachinePhase::Asleep => ('‖', "asleep".to_owned(), vec![line("start", "Wake"), line("stop", "Stop")]),
        MachinePhase::Stopping => ('◔', "stopping".to_owned(), vec![line("kill", "End at Once")]),
        MachinePhase::Failed => ('✕', "failed".to_owned(), vec![line("start", "Start Again")]),
        MachinePhase::Silent => ('✕', "not answering".to_owned(), vec![line("kill", "End at Once")]),
    };
    lines.extend(row.failure.iter().map(|failure| Line::Label(first_line(&failure.cause))));
    lines.push(Line::Label(row.engine.clone()));
    Line::Submenu(format!("{mark} Machine {name}  {words}"), lines)
}

fn starting(row: &MachineRow) -> String {
    let stage = row.stages.iter().find(|stage| stage.state == StageState::Now);
    let words = match stage.map(|stage| stage.stage) {
        None => "starting",
        Some(MachineStage::Image) => "checking its image",
        Some(MachineStage::Disk) => "opening its disk",
        Some(MachineStage::Hypervisor) => "making the machine",
        Some(MachineStage::Kernel) => "booting",
        Some(MachineStage::Agent) => "mounting its disk",
        Some(MachineStage::Shares) => "sharing folders",
        Some(MachineStage::Network) => "connecting its network",
        Some(MachineStage::Engine) => "starting its engine",
    };
    words.to_owned()
}

/// The end of a long line would make the whole menu wide.
fn first_line(text: &str) -> String {
    const MOST: usize = 80;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST {
        return line.to_owned();
    }
    line.chars().take(MOST - 1).chain(['…']).collect()
}

fn container(row: &ContainerRow) -> Line {
    let id = &row.id;
    let line = |verb: &str, text: &str| action(&format!("{verb} {id}"), text);
    let urls = row.ports.iter().filter_map(|port| {
        let url = port.url.as_ref()?;
        Some(action(&format!("open-url {url}"), &format!("Open localhost:{}", port.host)))
    });
    let mut lines: Vec<_> = urls.take(MOST_PORTS).collect();
    lines.extend(match row.state.as_str() {
        "running" => vec![line("stop", "Stop"), line("restart", "Restart")],
        "paused" => vec![line("resume", "Resume"), line("stop", "Stop")],
        "restarting" => vec![line("stop", "Stop")],
        "removing" => Vec::new(),
        _ => vec![line("start", "Start")],
    });
    lines.push(Line::Label(row.image.clone()));
    Line::Submenu(format!("{} {}", mark(row.shape), row.title), lines)
}

#[cfg(test)]
mod tests {
    use super::super::row::Port;
    use super::*;

    fn engine(state: Health) -> EngineState {
        EngineState {
            state,
            address: String::new(),
            version: String::new(),
            mode: String::new(),
            cpus: 1,
            memory: 0,
            has_bridge: false,
            error: None,
            last_answer: None,
            startable: true,
        }
    }

    fn row(title: &str, project: Option<&str>, state: &str, shape: Shape) -> ContainerRow {
        ContainerRow {
            id: format!("id-{title}"),
            title: title.into(),
            project: project.map(Into::into),
            state: state.into(),
            shape,
            ..ContainerRow::default()
        }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines
            .iter()
            .map(|line| match line {
                Line::Label(text) | Line::Action(_, text) | Line::Submenu(text, _) => text,
                Line::Rule => "-",
            })
            .collect()
    }

    #[test]
    fn running_containers_come_before_stopped_ones_and_after_projects() {
        let rows = [
            row("old", None, "exited", Shape::Exited),
            row("web", None, "running", Shape::Running),
            row("api", Some("shop"), "running", Shape::Running),
            row("db", Some("shop"), "exited", Shape::Failed),
        ];
        let lines = menu(&engine(Health::Running), &rows, &[]);
        assert_eq!(
            texts(&lines),
            [
                "Engine is running, 2 containers",
                "-",
                "✕ shop  1 of 2",
                "● web",
                "○ old",
                "-",
                "Open Cove",
                "Run…",
                "-",
                "Quit Cove"
            ]
        );
        let Line::Submenu(_, web) = &lines[3] else { panic!("no submenu") };
        assert_eq!(web[0], Line::Action("stop id-web".into(), "Stop".into()));
    }

    #[test]
    fn ports_can_be_opened_where_a_browser_can_show_them() {
        let port = |host: u16, url: Option<&str>| Port {
            host,
            container: 80,
            protocol: "tcp".into(),
            url: url.map(Into::into),
        };
        let web = ContainerRow {
            ports: vec![port(8080, Some("http://localhost:8080")), port(5353, None)],
            ..row("web", None, "running", Shape::Running)
        };
        let lines = menu(&engine(Health::Running), &[web], &[]);
        let Line::Submenu(_, web) = &lines[2] else { panic!("no submenu") };
        assert_eq!(texts(web)[..2], ["Open localhost:8080", "Stop"]);
        let Line::Action(id, _) = &web[0] else { panic!("no action") };
        assert_eq!(action_of(id), Some(Action::OpenUrl("http://localhost:8080".into())));
    }

    #[test]
    fn an_absent_engine_can_be_started_from_the_tray() {
        let lines = menu(&engine(Health::Away), &[row("web", None, "running", Shape::Running)], &[]);
        assert_eq!(
            texts(&lines),
            ["Engine isn’t answering", "-", "Start the engine", "Open Cove", "-", "Quit Cove"]
        );
    }

    #[test]
    fn machines_stand_with_their_state_and_can_be_started_and_stopped() {
        let machine = |name: &str, phase| MachineRow { name: name.into(), phase, ..MachineRow::default() };
        let ill = MachineRow { warnings: vec!["a share".into()], ..machine("ill", MachinePhase::Running) };
        let rows = [machine("dev", MachinePhase::Stopped), ill, machine("hung", MachinePhase::Silent)];
        let lines = menu(&engine(Health::Running), &[], &rows);
        let wanted =
            ["○ Machine dev  stopped", "▲ Machine ill  running, 1 problem", "✕ Machine hung  not answering"];
        assert_eq!(texts(&lines)[1..4], wanted);
        let Line::Submenu(_, dev) = &lines[1] else { panic!("no submenu") };
        assert_eq!(dev[0], Line::Action("machine start dev".into(), "Start".into()));
        let order = MachineOrder::Start { name: "dev".into() };
        assert_eq!(action_of("machine start dev"), Some(Action::Call(Command::Machine { order })));
        assert_eq!(action_of("machine erase dev"), None);
    }

    #[test]
    fn every_line_that_acts_has_an_action() {
        fn check(lines: &[Line]) {
            for line in lines {
                match line {
                    Line::Action(id, _) => assert!(action_of(id).is_some(), "{id}"),
                    Line::Submenu(_, lines) => check(lines),
                    Line::Label(_) | Line::Rule => {}
                }
            }
        }
        let rows: Vec<_> = ["running", "paused", "exited", "restarting"]
            .into_iter()
            .cycle()
            .take(40)
            .map(|state| row(state, None, state, Shape::Running))
            .collect();
        let machines: Vec<_> = [
            MachinePhase::Stopped,
            MachinePhase::Starting,
            MachinePhase::Running,
            MachinePhase::Rescue,
            MachinePhase::FallingAsleep,
            MachinePhase::Asleep,
            MachinePhase::Stopping,
            MachinePhase::Failed,
            MachinePhase::Silent,
        ]
        .map(|phase| MachineRow { name: "dev".into(), phase, ..MachineRow::default() })
        .into();
        let lines = menu(&engine(Health::Running), &rows, &machines);
        check(&lines);
        assert!(texts(&lines).contains(&"24 more…"));
        assert_eq!(action_of("stop abc"), Some(Action::Call(Command::ContainerStop { id: "abc".into() })));
        assert_eq!(action_of("erase abc"), None);
    }
}
