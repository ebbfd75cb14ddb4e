//! What a user fills in for a machine, new or changed: its command line, and its configuration.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vm_manager::config::{Backend, Config, Share, check_name, parse_sleep_after, show_sleep_after};

use super::row::MachineBackend;
use crate::ui::error::UiError;
use crate::ui::form::{Preview, home, parse_bytes, shorten};

/// A folder of this computer that a machine sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShareLine {
    /// Its path; a line without one is ignored.
    pub path: String,
    /// The machine can't write to it.
    pub read_only: bool,
}

/// What a user fills in for a machine; texts are as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineForm {
    /// Its name.
    pub name: String,
    /// Who it is.
    pub backend: MachineBackend,
    /// Processors.
    pub cpus: String,
    /// Memory, such as `2 GB`.
    pub memory: String,
    /// The largest its disk may become.
    pub disk: String,
    /// Folders of this computer that it sees.
    pub shares: Vec<ShareLine>,
    /// Without clients and running containers for so long, such as `10 min`, it falls asleep; nothing for never.
    pub sleep_after: String,
    /// Programs in it may use the user's SSH agent.
    pub ssh_agent: bool,
    /// Programs for x86-64 are run by Rosetta, where macOS has that.
    pub rosetta: bool,
}

/// What a form is for.
#[derive(Debug, Clone, Copy)]
enum For<'a> {
    New,
    /// With what it is now.
    Change(&'a Config),
}

impl MachineForm {
    /// Checks it as that of a new machine.
    #[must_use]
    pub fn preview(&self) -> Preview {
        self.read(For::New).0
    }

    /// Checks it as a change of a machine.
    #[must_use]
    pub(crate) fn preview_of_change(&self, before: &Config) -> Preview {
        self.read(For::Change(before)).0
    }

    /// What a new machine is to be.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn config(&self) -> Result<Config, UiError> {
        let (preview, config) = self.read(For::New);
        preview.check(config)
    }

    /// What a machine is to become.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn change_of(&self, before: &Config) -> Result<Config, UiError> {
        let (preview, config) = self.read(For::Change(before));
        preview.check(config)
    }

    fn read(&self, what: For<'_>) -> (Preview, Config) {
        let (verb, before) = match what {
            For::New => ("init", None),
            For::Change(before) => ("set", Some(before)),
        };
        let mut preview = Preview::of(&["machine", verb]);
        let name = self.name.trim();
        preview.word_or(name, "NAME");
        if check_name(name).is_err() {
            preview.problem("name", "a machine's name has small letters, digits and dashes between them");
        }
        let config = Config {
            backend: self.backend.into(),
            cpus: self.cpus.trim().parse().unwrap_or(0),
            memory: amount(&self.memory),
            disk: amount(&self.disk),
            shares: self.read_shares(&mut preview),
            image: before.and_then(|before| before.image.clone()),
            sleep_after: self.read_sleep_after(&mut preview),
            ssh_agent: self.ssh_agent,
            rosetta: self.rosetta && Backend::from(self.backend).has_rosetta(),
        };
        self.check(&mut preview, &config, before);
        if before.is_none_or(|before| before.backend != config.backend) {
            preview.option("--backend", config.backend.name());
        }
        if before.is_none_or(|before| before.cpus != config.cpus) {
            preview.option("--cpus", self.cpus.trim());
        }
        for (option, bytes, was, typed) in [
            ("--memory", config.memory, before.map(|before| before.memory), &self.memory),
            ("--disk", config.disk, before.map(|before| before.disk), &self.disk),
        ] {
            if was != Some(bytes) {
                let shown = i64::try_from(bytes).ok().filter(|bytes| *bytes > 0).map(shorten);
                preview.option(option, shown.as_deref().unwrap_or(typed.trim()));
            }
        }
        self.say_shares(&mut preview, before, &config.shares);
        if before.is_some_and(|before| before.sleep_after != config.sleep_after) {
            let time = config.sleep_after.map_or_else(|| "off".to_owned(), show_sleep_after);
            preview.option("--sleep-after", &time);
        }
        let was = before.map(|before| (before.ssh_agent, before.rosetta));
        for (option, is_on, was) in [
            ("--ssh-agent", config.ssh_agent, was.map(|(ssh_agent, _)| ssh_agent)),
            ("--rosetta", config.rosetta, was.map(|(_, rosetta)| rosetta)),
        ] {
            match was {
                None if is_on => preview.word(option),
                Some(was) if was != is_on => preview.option(option, if is_on { "on" } else { "off" }),
                _ => {}
            }
        }
        (preview, config)
    }

    fn check(&self, preview: &mut Preview, config: &Config, before: Option<&Config>) {
        if config.cpus == 0 || config.cpus > 64 {
            preview.problem("cpus", "write a number from 1 to 64");
        }
        if config.memory < 256 << 20 {
            preview.problem("memory", "write an amount of at least 256 MB, such as 2 GB");
        }
        if config.disk < 256 << 20 {
            preview.problem("disk", "write an amount of at least 256 MB, such as 64 GB");
        } else if before.is_some_and(|before| config.disk < before.disk) {
            preview.problem("disk", "a disk only grows: a reset makes a smaller one");
        }
    }

    /// One that can't be saved does not sleep.
    fn read_sleep_after(&self, preview: &mut Preview) -> Option<u64> {
        let text = self.sleep_after.trim();
        if text.is_empty() || !Backend::from(self.backend).saves() {
            return None;
        }
        parse_sleep_after(text).unwrap_or_else(|_| {
            preview.problem("sleepAfter", "write a time such as 10 min, or nothing for never");
            None
        })
    }

    fn read_shares(&self, preview: &mut Preview) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        for (index, line) in self.shares.iter().enumerate().filter(|(_, line)| !line.path.trim().is_empty()) {
            let field = format!("shares.{index}");
            let folder = home(line.path.trim());
            match folder.parse::<Share>() {
                _ if !folder.starts_with('/') => preview.problem(&field, "a folder begins with / or ~"),
                // A colon would be read as the end of the path.
                _ if folder.contains(':') => preview.problem(&field, "a path with a colon can't be shared"),
                Ok(share) if shares.iter().any(|known| known.path == share.path) => {
                    preview.problem(&field, "this folder is there already");
                }
                Ok(share) => shares.push(Share { read_only: line.read_only, ..share }),
                Err(_) if folder == "/" => {
                    preview.problem(&field, "share folders below it: the machine has a / of its own");
                }
                Err(_) => preview.problem(&field, "there is no such folder"),
            }
        }
        shares
    }

    fn say_shares(&self, preview: &mut Preview, before: Option<&Config>, shares: &[Share]) {
        let typed = self.shares.iter().filter(|line| !line.path.trim().is_empty());
        if before.is_some_and(|before| before.shares == *shares) {
            return;
        }
        if typed.clone().next().is_none() {
            preview.word("--no-share");
        }
        for line in typed {
            let access = if line.read_only { ":ro" } else { "" };
            preview.option("--share", &format!("{}{access}", line.path.trim()));
        }
    }
}

/// Zero for what is none.
fn amount(text: &str) -> u64 {
    parse_bytes(text).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

/// What a new machine is unless somebody says otherwise, as `cove machine init` has it.
#[must_use]
pub(crate) fn defaults(backend: Backend) -> MachineForm {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let home = stdx::process::home().filter(|home| home != Path::new("/") && home.is_dir());
    let home = home.and_then(|home| home.into_os_string().into_string().ok());
    MachineForm {
        name: "default".to_owned(),
        backend: backend.into(),
        cpus: cpus.to_string(),
        memory: "2 GB".to_owned(),
        disk: "64 GB".to_owned(),
        shares: home.map(|path| ShareLine { path, read_only: false }).into_iter().collect(),
        sleep_after: String::new(),
        ssh_agent: false,
        rosetta: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> MachineForm {
        MachineForm {
            name: "dev".into(),
            backend: MachineBackend::Uml,
            cpus: "2".into(),
            memory: "512 MB".into(),
            disk: "8 GB".into(),
            shares: vec![],
            sleep_after: String::new(),
            ssh_agent: false,
            rosetta: false,
        }
    }

    fn fields(preview: &Preview) -> Vec<&str> {
        preview.problems.iter().map(|problem| problem.field.as_str()).collect()
    }

    #[test]
    fn a_new_machine_says_all_and_a_change_only_what_changes() {
        let words_of_new = "machine init dev --backend uml --cpus 2 --memory 512m --disk 8g --no-share";
        assert_eq!(form().preview().words.join(" "), words_of_new);
        let before = form().config().unwrap();
        assert_eq!((before.memory, before.disk), (512 << 20, 8 << 30));
        let change = MachineForm { cpus: "4".into(), memory: "1 GB".into(), ..form() };
        assert_eq!(change.preview_of_change(&before).words.join(" "), "machine set dev --cpus 4 --memory 1g");
        assert_eq!(change.change_of(&before).unwrap().cpus, 4);
        let sleeps = MachineForm { backend: MachineBackend::Qemu, sleep_after: "10 min".into(), ..form() };
        let words = "machine set dev --backend qemu --sleep-after 10m";
        assert_eq!(sleeps.preview_of_change(&before).words.join(" "), words);
        let lends = MachineForm { ssh_agent: true, rosetta: true, ..form() };
        assert_eq!(lends.preview_of_change(&before).words.join(" "), "machine set dev --ssh-agent on");
        assert_eq!(lends.preview().words.join(" "), format!("{words_of_new} --ssh-agent"));
        let lent = lends.config().unwrap();
        assert!(lent.ssh_agent && !lent.rosetta, "only macOS has that");
        assert_eq!(form().preview_of_change(&lent).words.join(" "), "machine set dev --ssh-agent off");
        let never = MachineForm { sleep_after: "soon".into(), ..sleeps };
        assert_eq!(fields(&never.preview_of_change(&before)), ["sleepAfter"]);
    }

    #[test]
    fn a_folder_is_shared_where_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let line = |path: &str| ShareLine { path: path.into(), read_only: true };
        let path = dir.path().canonicalize().unwrap().display().to_string();
        let good = MachineForm { shares: vec![line(&path), line("")], ..form() };
        let config = good.config().unwrap();
        assert!(config.shares.len() == 1 && config.shares[0].read_only);
        assert!(good.preview().words.contains(&format!("--share {path}:ro")));
        let bad = ["/no/such", "src", "/", &path].map(line);
        let bad = MachineForm { shares: [vec![line(&path)], bad.to_vec()].concat(), ..form() };
        assert_eq!(fields(&bad.preview()), ["shares.1", "shares.2", "shares.3", "shares.4"]);
    }

    #[test]
    fn what_no_machine_can_be_is_a_problem_of_its_field() {
        let bad = MachineForm {
            name: "A b".into(),
            cpus: "many".into(),
            memory: "1 MB".into(),
            disk: String::new(),
            ..form()
        };
        assert_eq!(fields(&bad.preview()), ["name", "cpus", "memory", "disk"]);
        let before = form().config().unwrap();
        let smaller = MachineForm { disk: "4 GB".into(), ..form() };
        assert_eq!(fields(&smaller.preview_of_change(&before)), ["disk"]);
        assert!(smaller.config().is_ok());
    }
}
