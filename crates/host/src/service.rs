//! Starting with the computer, before anybody logs in: an engine, or a machine, in the care of the system's own manager
//! of services. What it is told is text, made here for all three systems; where that goes, and who is told, is data.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use stdx::fs::Durability;

use crate::error::Error;
use crate::sys;

/// What is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The engine of this computer or, for a user, that user's.
    Engine {
        /// `coved`.
        program: PathBuf,
    },
    /// A machine with the engine in it.
    Machine {
        /// `cove`.
        program: PathBuf,
        /// Its name.
        name: String,
    },
}

/// Who keeps services on a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Linux: a unit (systemd.service(5)).
    Systemd,
    /// macOS: an agent of a user's or a daemon (launchd.plist(5)).
    Launchd,
    /// Windows: a task (Task Scheduler Schema 1.2).
    TaskScheduler,
}

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The computer's.
    System,
    /// A user's, whose folder and number or name this is.
    User {
        /// `/home/me`.
        home: PathBuf,
        /// `1000`, or `COMPUTER\me`.
        id: String,
    },
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What is started.
    pub what: What,
    /// Whose it is.
    pub owner: Owner,
}

/// A service of whoever runs this.
///
/// # Errors
/// No engine can be had on this system but in a machine.
pub fn of_this_user(what: What) -> Result<Service, Error> {
    let is_there = match what {
        What::Engine { .. } => sys::HAS_ENGINES,
        What::Machine { .. } => true,
    };
    if is_there { Ok(Service { what, owner: sys::owner() }) } else { Err(Error::NotHere) }
}

/// What is still to be done so that a user's services start before that user logs in.
#[must_use]
pub fn before_login() -> Option<&'static str> {
    let is_users = matches!(sys::owner(), Owner::User { .. });
    is_users.then_some(sys::BEFORE_LOGIN).filter(|note| !note.is_empty())
}

impl Service {
    /// Its name: `cove`, or `cove-machine-NAME`.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.what {
            What::Engine { .. } => "cove".to_owned(),
            What::Machine { name, .. } => format!("cove-machine-{name}"),
        }
    }

    fn description(&self) -> String {
        match &self.what {
            What::Engine { .. } => "Cove's container engine".to_owned(),
            What::Machine { name, .. } => format!("Cove's machine {name}"),
        }
    }

    /// The words that start it.
    fn words(&self) -> Vec<String> {
        match &self.what {
            What::Engine { program } => vec![program.display().to_string()],
            What::Machine { program, name } => {
                let words = ["machine", "start", "--quiet", name].map(str::to_owned);
                [&[program.display().to_string()], &words[..]].concat()
            }
        }
    }

    fn is_system(&self) -> bool {
        self.owner == Owner::System
    }

    /// What the manager is told.
    #[must_use]
    pub fn definition(&self, manager: Manager) -> String {
        match manager {
            Manager::Systemd => self.unit(),
            Manager::Launchd => self.plist(),
            Manager::TaskScheduler => self.task(),
        }
    }

    fn unit(&self) -> String {
        let after =
            if self.is_system() { "Wants=network-online.target\nAfter=network-online.target\n" } else { "" };
        let quoted: Vec<String> = self.words().iter().map(|word| quoted_for_systemd(word)).collect();
        let start = quoted.join(" ");
        let run = match &self.what {
            What::Engine { .. } => format!(
                "Type=exec\nExecStart={start}\nRestart=on-failure\nRestartSec=1\n\
                 # Containers outlive the engine: only coved is stopped, and what it makes below /run stays for the next one. \
                 For the\n# same reason there is no RuntimeDirectory=.\nKillMode=process\nDelegate=yes\nTasksMax=infinity\n"
            ),
            What::Machine { program, name } => format!(
                "Type=oneshot\nRemainAfterExit=yes\nExecStart={start}\nExecStop={} machine stop {}\nTimeoutStartSec=300\n\
                 TimeoutStopSec=120\nKillMode=mixed\n",
                quoted_for_systemd(&program.display().to_string()),
                quoted_for_systemd(name),
            ),
        };
        let wanted = if self.is_system() { "multi-user.target" } else { "default.target" };
        format!(
            "[Unit]\nDescription={}\n{after}\n[Service]\n{run}\n[Install]\nWantedBy={wanted}\n",
            self.description()
        )
    }

    fn label(&self) -> String {
        match &self.what {
            What::Engine { .. } => "dev.cove.engine".to_owned(),
            What::Machine { name, .. } => format!("dev.cove.machine.{name}"),
        }
    }

    fn plist(&self) -> String {
        let words: String =
            self.words().iter().map(|word| format!("\t\t<string>{}</string>\n", escaped(word))).collect();
        // A machine's command ends when it runs; an engine's does not.
        let keep = match self.what {
            What::Engine { .. } => {
                "\t<key>KeepAlive</key>\n\t<dict>\n\t\t<key>SuccessfulExit</key>\n\t\t<false/>\n\t</dict>\n"
            }
            // The machine's own process is left alone when the command that started it is over.
            What::Machine { .. } => "\t<key>AbandonProcessGroup</key>\n\t<true/>\n",
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <plist version=\"1.0\">\n<dict>\n\t<key>Label</key>\n\t<string>{}</string>\n\t<key>ProgramArguments</key>\n\
             \t<array>\n{words}\t</array>\n\t<key>RunAtLoad</key>\n\t<true/>\n{keep}\t<key>ProcessType</key>\n\
             \t<string>Adaptive</string>\n</dict>\n</plist>\n",
            escaped(&self.label())
        )
    }

    fn task(&self) -> String {
        let words = self.words();
        let (program, arguments) = words
            .split_first()
            .map_or(("", String::new()), |(program, rest)| (program.as_str(), rest.join(" ")));
        let principal = match &self.owner {
            Owner::System => "<UserId>S-1-5-18</UserId><RunLevel>HighestAvailable</RunLevel>".to_owned(),
            // Without a password and before the user logs in (S4U), with no more rights than a program of theirs.
            Owner::User { id, .. } => format!(
                "<UserId>{}</UserId><LogonType>S4U</LogonType><RunLevel>LeastPrivilege</RunLevel>",
                escaped(id)
            ),
        };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Task version=\"1.2\" xmlns=\"http://schemas.microsoft.com/windows/2004/02/mit/task\">\n\
             <RegistrationInfo><Description>{}</Description></RegistrationInfo>\n\
             <Triggers><BootTrigger><Enabled>true</Enabled></BootTrigger></Triggers>\n\
             <Principals><Principal id=\"Author\">{principal}</Principal></Principals>\n\
             <Settings><DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>\
             <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries><ExecutionTimeLimit>PT0S</ExecutionTimeLimit>\
             <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy></Settings>\n\
             <Actions Context=\"Author\"><Exec><Command>{}</Command><Arguments>{}</Arguments></Exec></Actions>\n\
             </Task>\n",
            escaped(&self.description()),
            escaped(program),
            escaped(&arguments),
        )
    }

    /// Where its definition is.
    fn place(&self, manager: Manager) -> PathBuf {
        let (name, label) = (self.name(), self.label());
        match (manager, &self.owner) {
            (Manager::Systemd, Owner::System) => format!("/etc/systemd/system/{name}.service").into(),
            (Manager::Systemd, Owner::User { home, .. }) => {
                let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty());
                let config = config.map_or_else(|| home.join(".config"), PathBuf::from);
                config.join(format!("systemd/user/{name}.service"))
            }
            (Manager::Launchd, Owner::System) => format!("/Library/LaunchDaemons/{label}.plist").into(),
            (Manager::Launchd, Owner::User { home, .. }) => {
                home.join(format!("Library/LaunchAgents/{label}.plist"))
            }
            (Manager::TaskScheduler, Owner::System) => {
                format!("C:\\ProgramData\\Cove\\services\\{name}.xml").into()
            }
            (Manager::TaskScheduler, Owner::User { home, .. }) => {
                home.join("AppData").join("Local").join("Cove").join("services").join(format!("{name}.xml"))
            }
        }
    }

    /// Who is told so that it is started from now on, and each time; with `is_now` also at once.
    fn telling(&self, manager: Manager, place: &Path, is_now: bool) -> Vec<Vec<String>> {
        let (name, place) = (self.name(), place.display().to_string());
        let own = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let systemctl = if self.is_system() { "systemctl" } else { "systemctl --user" };
        match manager {
            Manager::Systemd => {
                let now = if is_now { " --now" } else { "" };
                vec![
                    own(&format!("{systemctl} daemon-reload")),
                    own(&format!("{systemctl} enable{now} {name}.service")),
                ]
            }
            Manager::Launchd => {
                vec![[own(&format!("launchctl bootstrap {}", self.domain())), vec![place]].concat()]
            }
            Manager::TaskScheduler => {
                vec![[own(&format!("schtasks /Create /F /TN Cove\\{name} /XML")), vec![place]].concat()]
            }
        }
    }

    /// The same the other way round, before its definition goes and after.
    fn untelling(&self, manager: Manager) -> [Vec<Vec<String>>; 2] {
        let name = self.name();
        let own = |line: String| vec![line.split(' ').map(str::to_owned).collect::<Vec<_>>()];
        let systemctl = if self.is_system() { "systemctl" } else { "systemctl --user" };
        match manager {
            Manager::Systemd => [
                own(format!("{systemctl} disable --now {name}.service")),
                own(format!("{systemctl} daemon-reload")),
            ],
            Manager::Launchd => {
                [own(format!("launchctl bootout {}/{}", self.domain(), self.label())), vec![]]
            }
            Manager::TaskScheduler => [own(format!("schtasks /Delete /F /TN Cove\\{name}")), vec![]],
        }
    }

    fn domain(&self) -> String {
        match &self.owner {
            Owner::System => "system".to_owned(),
            Owner::User { id, .. } => format!("gui/{id}"),
        }
    }

    /// Has it started with the computer; with `is_now` it is started at once, too. Where its definition is.
    ///
    /// # Errors
    /// There is no manager here, it refuses, or the definition can't be written; nothing is left of it then.
    pub fn install(&self, is_now: bool) -> Result<PathBuf, Error> {
        let manager = sys::service_manager()?;
        let place = self.place(manager);
        let failed = |source| Error::Prepare { path: place.clone(), source };
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = self.definition(manager);
        stdx::fs::write_atomic(&place, text.as_bytes(), Durability::Power).map_err(failed)?;
        let told = self.telling(manager, &place, is_now).iter().try_for_each(|words| tell(words));
        if told.is_err() {
            // It may know a part of it.
            let _ = self.remove();
        }
        told.map(|()| place)
    }

    /// Has it started no more, and ended if it runs. Whether there was one.
    ///
    /// # Errors
    /// There is no manager here, or it refuses.
    pub fn remove(&self) -> Result<bool, Error> {
        let manager = sys::service_manager()?;
        let place = self.place(manager);
        if !place.exists() {
            return Ok(false);
        }
        let [before, after] = self.untelling(manager);
        let told = before.iter().try_for_each(|words| tell(words));
        std::fs::remove_file(&place).map_err(|source| Error::Prepare { path: place.clone(), source })?;
        after.iter().try_for_each(|words| tell(words))?;
        told.map(|()| true)
    }

    /// Where its definition is, if there is one.
    ///
    /// # Errors
    /// There is no manager here.
    pub fn installed(&self) -> Result<Option<PathBuf>, Error> {
        let place = self.place(sys::service_manager()?);
        Ok(place.exists().then_some(place))
    }
}

/// Runs one of the manager's programs.
fn tell(words: &[String]) -> Result<(), Error> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let mut command = stdx::process::command(program);
    command.args(arguments).stdin(Stdio::null());
    stdx::process::pass(&mut command, &["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"]);
    let output = command.output().map_err(|source| Error::Spawn { program: program.into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(Error::ServiceManager { command: words.join(" "), said })
}

/// A word as systemd takes it: in quotes, its specifiers and variables taken as they are (systemd.service(5), "Command
/// lines").
fn quoted_for_systemd(word: &str) -> String {
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte)) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for letter in word.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '%' | '$' => quoted.extend([letter, letter]),
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// Text as it stands in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(owner: Owner) -> Service {
        Service { what: What::Engine { program: "/opt/100% cove/coved".into() }, owner }
    }

    #[test]
    fn debians_package_brings_the_same_units() {
        let user = Owner::User { home: "/home/me".into(), id: "1000".to_owned() };
        let packaged = [
            (Owner::System, include_str!("../../../packaging/linux/cove.service")),
            (user, include_str!("../../../packaging/linux/cove.user.service")),
        ];
        for (owner, packaged) in packaged {
            let what = What::Engine { program: "/usr/bin/coved".into() };
            assert_eq!(Service { what, owner }.definition(Manager::Systemd), packaged);
        }
    }

    fn machine() -> Service {
        let owner = Owner::User { home: "/home/me".into(), id: "1000".to_owned() };
        Service { what: What::Machine { program: "/usr/bin/cove".into(), name: "dev".to_owned() }, owner }
    }

    #[test]
    fn systemd_is_told_of_an_engine_whose_containers_outlive_it() {
        let unit = engine(Owner::System).definition(Manager::Systemd);
        assert!(unit.contains("\nExecStart=\"/opt/100%% cove/coved\"\n"), "{unit}");
        assert!(unit.contains("\nKillMode=process\n") && unit.contains("\nDelegate=yes\n"), "{unit}");
        assert!(unit.ends_with("[Install]\nWantedBy=multi-user.target\n"), "{unit}");
        let unit = machine().definition(Manager::Systemd);
        assert!(unit.contains("ExecStart=/usr/bin/cove machine start --quiet dev\n"), "{unit}");
        assert!(unit.contains("ExecStop=/usr/bin/cove machine stop dev\n"), "{unit}");
        assert!(unit.ends_with("WantedBy=default.target\n"), "{unit}");
    }

    #[test]
    fn launchd_and_the_task_scheduler_are_told_in_xml() {
        let plist = engine(Owner::System).definition(Manager::Launchd);
        assert!(plist.contains("<string>dev.cove.engine</string>"), "{plist}");
        assert!(plist.contains("\t\t<string>/opt/100% cove/coved</string>\n"), "{plist}");
        let mut odd = machine();
        odd.what = What::Machine { program: "C:\\A & B\\cove.exe".into(), name: "dev".to_owned() };
        let task = odd.definition(Manager::TaskScheduler);
        assert!(task.contains("<Command>C:\\A &amp; B\\cove.exe</Command>"), "{task}");
        assert!(task.contains("<Arguments>machine start --quiet dev</Arguments>"), "{task}");
        assert!(task.contains("<BootTrigger>") && task.contains("<LogonType>S4U</LogonType>"), "{task}");
        for text in [plist, task] {
            let (opened, closed) = (text.matches("</").count(), text.matches("/>").count());
            let all = text.matches('<').count() - text.matches("<?").count() - text.matches("<!").count();
            assert_eq!(all, opened * 2 + closed, "what is opened is closed: {text}");
        }
    }

    #[test]
    fn each_manager_is_told_and_told_again() {
        let service = machine();
        let lines = |told: &[Vec<String>]| told.iter().map(|words| words.join(" ")).collect::<Vec<_>>();
        let place = Path::new("/p/x");
        assert_eq!(
            lines(&service.telling(Manager::Systemd, place, true)),
            ["systemctl --user daemon-reload", "systemctl --user enable --now cove-machine-dev.service"]
        );
        assert_eq!(
            lines(&service.telling(Manager::Launchd, place, true)),
            ["launchctl bootstrap gui/1000 /p/x"]
        );
        let [before, _] = service.untelling(Manager::Launchd);
        assert_eq!(lines(&before), ["launchctl bootout gui/1000/dev.cove.machine.dev"]);
        assert_eq!(
            lines(&service.telling(Manager::TaskScheduler, place, true)),
            ["schtasks /Create /F /TN Cove\\cove-machine-dev /XML /p/x"]
        );
    }
}
