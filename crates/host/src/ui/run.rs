//! The run form: checking it, its command line, and the container it describes.

use std::collections::BTreeMap;

use api::container::{
    ContainerConfig, CreateContainer, Empty, HostConfig, PortBinding, Resources, RestartPolicy,
};
use serde::{Deserialize, Serialize};

use super::form::{Preview, Problem, Variable, home, is_volume_name, parse_bytes, parse_cpus, shorten};

/// What a user fills in; texts are as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunForm {
    /// A reference.
    pub image: String,
    /// Empty: the engine chooses one.
    pub name: String,
    /// As in a shell. Empty: the image's own.
    pub command: String,
    /// Lines with an empty name are ignored.
    pub env: Vec<Variable>,
    /// Lines that are empty are ignored.
    pub mounts: Vec<MountLine>,
    /// How many processors, `1.5`. Empty: all.
    pub cpus: String,
    /// How much memory, `512 MB`. Empty: all.
    pub memory: String,
    /// What becomes of it when it ends.
    pub on_exit: OnExit,
    /// What it can reach.
    pub network: Network,
    /// Lines that are empty are ignored, and all of them without an address of its own.
    #[serde(default)]
    pub ports: Vec<PortLine>,
}

/// A folder of this computer, or a volume, inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountLine {
    /// A folder here, or a volume's name; one that is not there is made.
    pub source: String,
    /// There.
    pub target: String,
    /// Whether it can't be changed from there.
    pub read_only: bool,
}

/// A port of the container that is reached at one of this computer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortLine {
    /// Here. Empty: one that is free.
    pub outer: String,
    /// There.
    pub inner: String,
}

/// What becomes of a container when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum OnExit {
    /// It stays.
    #[default]
    Keep,
    /// It goes.
    Remove,
    /// It is started again.
    Restart,
}

/// What a container can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// What this computer can reach, by its own addresses.
    #[default]
    Host,
    /// What this computer can reach, by an address of its own.
    Bridge,
    /// Nothing.
    None,
    /// The members of a network of the user's, which find each other by name, and what it can reach.
    Named(String),
}

impl Network {
    /// As the engine and the command line take it.
    fn mode(&self) -> &str {
        match self {
            Self::Host => "host",
            Self::Bridge => "bridge",
            Self::None => "none",
            Self::Named(name) => name.trim(),
        }
    }

    /// Whether it has addresses of its own, of which ports can be published.
    fn is_bridged(&self) -> bool {
        matches!(self, Self::Bridge | Self::Named(_))
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Stage {
    Creating,
    Pulling,
    Starting,
}

/// A form that can run: its container, and its command line.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The container's name, if one was chosen.
    pub name: Option<String>,
    /// What to create.
    pub spec: CreateContainer,
    preview: Preview,
}

impl RunForm {
    /// Checks the form.
    #[must_use]
    pub fn preview(&self) -> Preview {
        self.read().preview
    }

    /// What to create.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn plan(&self) -> Result<Plan, Problem> {
        let plan = self.read();
        match plan.preview.problems.first() {
            Some(problem) => Err(problem.clone()),
            None => Ok(plan),
        }
    }

    fn read(&self) -> Plan {
        let mut reader = Reader::default();
        reader.word("run");
        reader.word("-d");
        self.read_life(&mut reader);
        self.read_ports(&mut reader);
        self.read_env(&mut reader);
        self.read_mounts(&mut reader);
        self.read_limits(&mut reader);
        self.read_image(&mut reader);
        reader.finish()
    }

    fn read_life(&self, reader: &mut Reader) {
        match self.on_exit {
            OnExit::Keep => {}
            OnExit::Remove => {
                reader.word("--rm");
                reader.host.auto_remove = true;
            }
            OnExit::Restart => {
                reader.option("--restart", "unless-stopped");
                reader.host.restart_policy =
                    RestartPolicy { name: "unless-stopped".to_owned(), maximum_retry_count: 0 };
            }
        }
        let name = self.name.trim();
        if !name.is_empty() {
            let mut chars = name.chars();
            let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
            if !first || !chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
                reader.problem(
                    "name",
                    "a name begins with a letter or digit and goes on with those, _, . or -",
                );
            }
            reader.option("--name", name);
            reader.name = Some(name.to_owned());
        }
        let network = self.network.mode();
        if network.is_empty() {
            reader.problem("network", "choose a network");
        }
        // The bridge is what a container gets that is not asked.
        if self.network != Network::Bridge {
            reader.option("--network", network);
        }
        network.clone_into(&mut reader.host.network_mode);
    }

    fn read_ports(&self, reader: &mut Reader) {
        let lines = self.ports.iter().enumerate().filter(|_| self.network.is_bridged());
        for (index, line) in lines {
            let (outer, inner) = (line.outer.trim(), line.inner.trim());
            if outer.is_empty() && inner.is_empty() {
                continue;
            }
            let field = format!("ports.{index}");
            let (number, protocol) = inner.split_once('/').unwrap_or((inner, "tcp"));
            let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port != 0);
            if !is_port(number) || !matches!(protocol, "tcp" | "udp") {
                reader.problem(&field, "a port in the container is a number up to 65535, perhaps with /udp");
            }
            if !outer.is_empty() && !is_port(outer) {
                reader.problem(
                    &field,
                    "a port of this computer is a number up to 65535, or nothing for a free one",
                );
            }
            let shown = if outer.is_empty() { inner.to_owned() } else { format!("{outer}:{inner}") };
            reader.option("-p", &shown);
            let key = format!("{number}/{protocol}");
            let binding = PortBinding { host_ip: String::new(), host_port: outer.to_owned() };
            reader.host.port_bindings.entry(key.clone()).or_default().get_or_insert_default().push(binding);
            reader.config.exposed_ports.get_or_insert_default().insert(key, Empty::default());
        }
    }

    fn read_env(&self, reader: &mut Reader) {
        for (index, variable) in self.env.iter().enumerate() {
            let name = variable.name.trim();
            if name.is_empty() {
                if !variable.value.is_empty() {
                    reader.problem(&format!("env.{index}"), "this value has no name");
                }
                continue;
            }
            if name.contains(['=', '\0']) || name.contains(char::is_whitespace) {
                reader.problem(&format!("env.{index}"), "a name has no blank and no = in it");
            }
            let pair = format!("{name}={}", variable.value);
            // A secret is taken from the shell's own environment, so that it can be copied safely.
            reader.option("-e", if is_secret(name) { name } else { &pair });
            reader.config.env.push(pair);
        }
    }

    fn read_mounts(&self, reader: &mut Reader) {
        let mut binds = Vec::new();
        for (index, line) in self.mounts.iter().enumerate() {
            let (source, target) = (line.source.trim(), line.target.trim());
            if source.is_empty() && target.is_empty() {
                continue;
            }
            let field = format!("mounts.{index}");
            let expanded = home(source);
            if !expanded.starts_with('/') && !is_volume_name(source) {
                reader.problem(
                    &field,
                    "a folder here begins with / or ~; a volume's name has letters, digits, _, . and -, at least two",
                );
            }
            if !target.starts_with('/') || target == "/" {
                reader.problem(&field, "a folder in the container begins with / and is not / itself");
            }
            if expanded.contains(':') || target.contains(':') {
                reader.problem(&field, "a folder with a colon in its name can't be mounted");
            }
            let suffix = if line.read_only { ":ro" } else { "" };
            reader.option("-v", &format!("{source}:{target}{suffix}"));
            binds.push(format!("{expanded}:{target}{suffix}"));
        }
        if !binds.is_empty() {
            reader.host.binds = Some(binds);
        }
    }

    fn read_limits(&self, reader: &mut Reader) {
        let cpus = self.cpus.trim();
        if !cpus.is_empty() {
            match parse_cpus(cpus) {
                Some(nanos) => reader.host.resources.nano_cpus = nanos,
                None => reader.problem("cpus", "write a number of processors, such as 1.5"),
            }
            reader.option("--cpus", cpus);
        }
        let memory = self.memory.trim();
        if !memory.is_empty() {
            match parse_bytes(memory) {
                Some(bytes) if bytes >= 6 << 20 => {
                    reader.host.resources.memory = bytes;
                    reader.option("-m", &shorten(bytes));
                }
                Some(_) => reader.problem("memory", "at least 6 MB are needed"),
                None => reader.problem("memory", "write an amount, such as 512 MB or 2 GB"),
            }
        }
    }

    fn read_image(&self, reader: &mut Reader) {
        let image = self.image.trim();
        if image.is_empty() {
            reader.problem("image", "choose an image");
        } else if image.contains(char::is_whitespace) || image.starts_with(['-', '/', ':']) {
            reader.problem("image", "an image is written as name:tag, such as postgres:17");
        }
        reader.preview.image_at = u32::try_from(reader.preview.words.len()).ok();
        reader.word(image);
        image.clone_into(&mut reader.config.image);
        let command = self.command.trim();
        if command.is_empty() {
            return;
        }
        match shlex::split(command) {
            Some(words) => {
                for word in &words {
                    reader.word(word);
                }
                reader.config.cmd = Some(words);
            }
            None => reader.problem("command", "a quotation mark is not closed"),
        }
    }
}

/// The parts of a [`Plan`] while a form is read.
#[derive(Default)]
struct Reader {
    name: Option<String>,
    config: ContainerConfig,
    host: HostConfig,
    preview: Preview,
}

impl Reader {
    fn word(&mut self, word: &str) {
        self.preview.word(word);
    }

    fn option(&mut self, name: &str, value: &str) {
        self.preview.option(name, value);
    }

    fn problem(&mut self, field: &str, message: &str) {
        self.preview.problem(field, message);
    }

    fn finish(self) -> Plan {
        let spec = CreateContainer {
            config: self.config,
            host_config: HostConfig { resources: Resources { ..self.host.resources }, ..self.host },
            networking_config: api::container::NetworkingConfig { endpoints_config: BTreeMap::new() },
        };
        Plan { name: self.name, spec, preview: self.preview }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "API_KEY", "PRIVATE_KEY"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> RunForm {
        RunForm { image: "postgres:17".into(), ..RunForm::default() }
    }

    #[test]
    fn the_command_line_says_what_the_container_is_made_of() {
        let form = RunForm {
            name: "db".into(),
            command: "postgres -c 'max_connections = 5'".into(),
            env: vec![
                Variable { name: "POSTGRES_PASSWORD".into(), value: "hunter2".into() },
                Variable { name: "POSTGRES_DB".into(), value: "my scratch".into() },
                Variable::default(),
            ],
            mounts: vec![MountLine { source: "/srv/seed".into(), target: "/seed".into(), read_only: true }],
            cpus: "1.5".into(),
            memory: "512 MB".into(),
            on_exit: OnExit::Remove,
            ..form()
        };
        let plan = form.plan().unwrap();
        assert_eq!(
            plan.preview.words.join(" "),
            "run -d --rm --name db --network host -e POSTGRES_PASSWORD -e 'POSTGRES_DB=my scratch' \
             -v /srv/seed:/seed:ro --cpus 1.5 -m 512m postgres:17 postgres -c 'max_connections = 5'"
        );
        assert_eq!(plan.preview.words[plan.preview.image_at.unwrap() as usize], "postgres:17");
        assert_eq!(plan.spec.config.env, ["POSTGRES_PASSWORD=hunter2", "POSTGRES_DB=my scratch"]);
        assert_eq!(plan.spec.config.cmd.unwrap(), ["postgres", "-c", "max_connections = 5"]);
        assert_eq!(plan.spec.host_config.binds.unwrap(), ["/srv/seed:/seed:ro"]);
        assert_eq!(plan.spec.host_config.resources.nano_cpus, 1_500_000_000);
        assert_eq!(plan.spec.host_config.resources.memory, 512 << 20);
        assert!(plan.spec.host_config.auto_remove);
    }

    #[test]
    fn ports_are_published_on_the_bridge_alone() {
        let line = |outer: &str, inner: &str| PortLine { outer: outer.into(), inner: inner.into() };
        let mut form = RunForm {
            network: Network::Bridge,
            ports: vec![line("8080", "80"), line("", "53/udp"), line("", "")],
            ..form()
        };
        let plan = form.plan().unwrap();
        assert_eq!(plan.preview.words.join(" "), "run -d -p 8080:80 -p 53/udp postgres:17");
        assert_eq!(plan.spec.host_config.network_mode, "bridge");
        let bindings = &plan.spec.host_config.port_bindings;
        assert_eq!(bindings["80/tcp"].as_ref().unwrap()[0].host_port, "8080");
        assert_eq!(bindings["53/udp"].as_ref().unwrap()[0].host_port, "");
        form.ports.push(line("http", "70000"));
        let problems = form.preview().problems;
        assert!(
            problems.iter().all(|problem| problem.field == "ports.3") && problems.len() == 2,
            "{problems:?}"
        );
        form.network = Network::Host;
        assert!(form.plan().unwrap().spec.host_config.port_bindings.is_empty());
    }

    #[test]
    fn a_network_of_the_users_has_ports_and_a_volume_goes_by_its_name() {
        let form = RunForm {
            network: Network::Named("backend".into()),
            ports: vec![PortLine { outer: "8080".into(), inner: "80".into() }],
            mounts: vec![MountLine { source: "pgdata".into(), target: "/data".into(), read_only: false }],
            ..form()
        };
        let plan = form.plan().unwrap();
        assert_eq!(
            plan.preview.words.join(" "),
            "run -d --network backend -p 8080:80 -v pgdata:/data postgres:17"
        );
        assert_eq!(plan.spec.host_config.network_mode, "backend");
        assert_eq!(plan.spec.host_config.binds.unwrap(), ["pgdata:/data"]);
        let form = RunForm { network: Network::Named(" ".into()), ..form };
        assert_eq!(form.plan().unwrap_err().field, "network");
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        let form = RunForm {
            image: " ".into(),
            name: "-x".into(),
            command: "echo 'open".into(),
            env: vec![Variable { name: "A B".into(), value: String::new() }],
            mounts: vec![MountLine { source: "./seed".into(), target: "/seed".into(), read_only: false }],
            cpus: "two".into(),
            memory: "lots".into(),
            ..RunForm::default()
        };
        let fields: Vec<_> = form.preview().problems.into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["name", "env.0", "mounts.0", "cpus", "memory", "image", "command"]);
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        let form = RunForm { command: "sh -c 'echo $HOME; ls *'".into(), ..form() };
        assert!(form.preview().words.join(" ").ends_with("postgres:17 sh -c 'echo $HOME; ls *'"));
    }
}
