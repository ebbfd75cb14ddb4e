//! A machine of the service's, from creation to its end.

use std::path::Path;

use super::document::{self, Share, Spec};
use super::{Failure, FailureKind, Order, Service, System};

/// A machine that runs. It ends with this value, unless it was ended before.
#[derive(Debug)]
pub struct Machine<S: System> {
    system: S,
}

impl<S: System> Machine<S> {
    /// Makes and starts it: anew, or from where it was saved.
    ///
    /// # Errors
    /// The service's; nothing of the machine is left then.
    pub fn start<V: Service<System = S>>(service: &V, id: &str, spec: &Spec) -> Result<Self, Failure> {
        for file in spec.files() {
            service.grant(id, file)?;
        }
        let system = service.create(id, &spec.document().text())?;
        // What does not start goes with its value.
        system.order(Order::Start, None)?;
        Ok(Self { system })
    }

    /// Lets the guest mount one more folder.
    ///
    /// # Errors
    /// The service's.
    pub fn add_share(&self, share: &Share) -> Result<(), Failure> {
        self.system.modify(&document::add_share(share))
    }

    /// Takes a folder away from the guest.
    ///
    /// # Errors
    /// The service's.
    pub fn remove_share(&self, tag: &str) -> Result<(), Failure> {
        self.system.modify(&document::remove_share(tag))
    }

    /// Writes its state to a file, and ends it.
    ///
    /// # Errors
    /// The service's. It goes on as before then.
    pub fn save(self, file: &Path) -> Result<(), (Self, Failure)> {
        if let Err(failure) = self.system.order(Order::Pause, None) {
            return Err((self, failure));
        }
        match self.system.order(Order::Save, Some(&document::save_to(file))) {
            Ok(()) => self.end().map_err(|failure| (self, failure)),
            Err(failure) => {
                // Where it does not go on either, the first failure says more.
                let _ = self.system.order(Order::Resume, None);
                Err((self, failure))
            }
        }
    }

    /// Ends it at once; one that has ended is as good.
    ///
    /// # Errors
    /// The service's.
    pub fn end(&self) -> Result<(), Failure> {
        match self.system.order(Order::Terminate, None) {
            Err(failure) if failure.kind() != FailureKind::WrongState => Err(failure),
            _ => Ok(()),
        }
    }

    /// What the service says of it: its state and its runtime id, by which the guest is connected to.
    ///
    /// # Errors
    /// The service's.
    pub fn properties(&self) -> Result<String, Failure> {
        self.system.properties("{}")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::hcs::document::Disk;

    /// A service that only writes down what it is asked, and fails where it is told to.
    #[derive(Default, Clone)]
    struct Recorder {
        calls: Rc<RefCell<Vec<String>>>,
        fails: Option<(&'static str, u32)>,
    }

    impl Recorder {
        fn record(&self, call: &'static str, with: &str) -> Result<(), Failure> {
            self.calls.borrow_mut().push(format!("{call} {with}").trim_end().to_owned());
            match self.fails {
                Some((failing, code)) if failing == call => Err(Failure::new(call, code)),
                _ => Ok(()),
            }
        }
    }

    impl Service for Recorder {
        type System = Self;

        fn create(&self, id: &str, _: &str) -> Result<Self, Failure> {
            self.record("create", id)?;
            Ok(self.clone())
        }

        fn grant(&self, _: &str, file: &Path) -> Result<(), Failure> {
            self.record("grant", &file.display().to_string())
        }

        fn enumerate(&self) -> Result<String, Failure> {
            Ok("[]".to_owned())
        }
    }

    impl System for Recorder {
        fn order(&self, order: Order, options: Option<&str>) -> Result<(), Failure> {
            self.record(order.call(), options.unwrap_or_default())
        }

        fn modify(&self, request: &str) -> Result<(), Failure> {
            self.record("modify", request)
        }

        fn properties(&self, _: &str) -> Result<String, Failure> {
            Ok("{}".to_owned())
        }
    }

    fn spec() -> Spec {
        Spec {
            cpus: 1,
            memory: 1 << 30,
            kernel: "kernel".into(),
            initrd: "initrd".into(),
            options: String::new(),
            disks: vec![Disk { path: "data.vhdx".into(), read_only: false }],
            shares: Vec::new(),
            user: "S-1".to_owned(),
            console: None,
            saved: None,
        }
    }

    fn calls(recorder: &Recorder) -> Vec<String> {
        recorder.calls.take()
    }

    #[test]
    fn a_machine_may_open_its_files_before_it_is_made() {
        let recorder = Recorder::default();
        let machine = Machine::start(&recorder, "dev", &spec()).ok().unwrap();
        let expected =
            ["grant kernel", "grant initrd", "grant data.vhdx", "create dev", "HcsStartComputeSystem"];
        assert_eq!(calls(&recorder), expected);
        machine.remove_share("c").unwrap();
        let request = r#"modify {"ResourcePath":"VirtualMachine/Devices/Plan9/Shares","RequestType":"Remove","Settings":{"Name":"c","AccessName":"c","Port":564}}"#;
        assert_eq!(calls(&recorder), [request]);
    }

    #[test]
    fn a_machine_that_can_not_be_saved_goes_on() {
        let recorder = Recorder { fails: Some(("HcsSaveComputeSystem", 0x8007_0070)), ..Recorder::default() };
        let machine = Machine::start(&recorder, "dev", &spec()).ok().unwrap();
        calls(&recorder);
        let (_, failure) = machine.save(Path::new("state")).err().unwrap();
        assert_eq!(failure.call, "HcsSaveComputeSystem");
        let expected = [
            "HcsPauseComputeSystem",
            r#"HcsSaveComputeSystem {"SaveType":"ToFile","SaveStateFilePath":"state"}"#,
            "HcsResumeComputeSystem",
        ];
        assert_eq!(calls(&recorder), expected);
    }

    #[test]
    fn one_that_was_saved_has_ended() {
        let recorder = Recorder::default();
        let machine = Machine::start(&recorder, "dev", &spec()).ok().unwrap();
        calls(&recorder);
        assert!(machine.save(Path::new("state")).is_ok());
        assert_eq!(calls(&recorder).last().unwrap(), "HcsTerminateComputeSystem");
    }

    #[test]
    fn ending_what_has_ended_is_no_failure() {
        for (code, is_failure) in [(0x8037_0110, false), (0x8007_0005, true)] {
            let recorder =
                Recorder { fails: Some(("HcsTerminateComputeSystem", code)), ..Recorder::default() };
            let machine = Machine::start(&recorder, "dev", &spec()).ok().unwrap();
            assert_eq!(machine.end().is_err(), is_failure);
        }
    }
}
