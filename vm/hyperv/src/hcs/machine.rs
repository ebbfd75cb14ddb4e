//! A machine of the service's, from creation to its end.

use std::path::Path;

use serde::Deserialize;

use super::document::{self, Share, Spec};
use super::{Failure, FailureKind, Identity, Order, Service, System};
use crate::guid::Guid;

/// A machine of the service's. It ends with this value, unless it was ended before.
#[derive(Debug)]
pub struct Machine<S: System> {
    system: S,
}

impl<S: System> Machine<S> {
    /// Makes it, of files that it may open already. It does not run yet, but has an id to be reached by.
    ///
    /// # Errors
    /// The service's; nothing of the machine is left then.
    pub fn make<V: Service<System = S>>(service: &V, id: &str, spec: &Spec) -> Result<Self, Failure> {
        Ok(Self { system: service.create(id, &spec.document().text())? })
    }

    /// Has it run: anew, or from where it was saved.
    ///
    /// # Errors
    /// The service's.
    pub fn start(&self) -> Result<(), Failure> {
        self.system.order(Order::Start, None)
    }

    /// Lets the guest mount one more folder, whose files are opened by whoever `identity` stands for.
    ///
    /// # Errors
    /// The service's.
    pub fn add_share(&self, share: &Share, identity: &Identity) -> Result<(), Failure> {
        self.system.modify(&document::add_share(share), Some(identity))
    }

    /// Takes a folder away from the guest.
    ///
    /// # Errors
    /// The service's.
    pub fn remove_share(&self, tag: &str) -> Result<(), Failure> {
        self.system.modify(&document::remove_share(tag), None)
    }

    /// Changes how much memory it has.
    ///
    /// # Errors
    /// The service's.
    pub fn set_memory(&self, bytes: u64) -> Result<(), Failure> {
        self.system.modify(&document::set_memory(bytes), None)
    }

    /// Has its processors stand still.
    ///
    /// # Errors
    /// The service's.
    pub fn pause(&self) -> Result<(), Failure> {
        self.system.order(Order::Pause, None)
    }

    /// Has them go on.
    ///
    /// # Errors
    /// The service's.
    pub fn resume(&self) -> Result<(), Failure> {
        self.system.order(Order::Resume, None)
    }

    /// Has `told` hear how it ended, in words.
    ///
    /// # Errors
    /// The service's.
    pub fn on_end(&self, told: impl FnOnce(String) + Send + 'static) -> Result<(), Failure> {
        self.system.on_end(Box::new(|said| told(how(said))))
    }

    /// Writes its state to a file that is there and empty. It stands still then.
    ///
    /// # Errors
    /// The service's. It goes on as before then.
    pub fn save(&self, file: &Path) -> Result<(), Failure> {
        self.pause()?;
        let saved = self.system.order(Order::Save, Some(&document::save_to(file)));
        saved.inspect_err(|_| {
            // Where it does not go on either, the first failure says more.
            let _ = self.resume();
        })
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

    /// The id by which the guest is connected to.
    ///
    /// # Errors
    /// The service's, or it tells none.
    pub fn runtime_id(&self) -> Result<Guid, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Properties {
            runtime_id: String,
        }
        let said = self.system.properties("{}")?;
        let found: Option<Properties> = serde_json::from_str(&said).ok();
        let id = found.and_then(|found| found.runtime_id.parse().ok());
        // E_UNEXPECTED.
        let none =
            || Failure { call: "HcsGetComputeSystemProperties".into(), code: 0x8000_FFFF, document: said };
        id.ok_or_else(none)
    }
}

/// How one ended that ended by itself and well, in words.
pub const SWITCHED_OFF: &str = "it was switched off";

/// What the service says of an end (`SystemExitStatus`), in words.
fn how(said: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Status {
        #[serde(default)]
        status: i32,
        exit_type: String,
    }
    let Ok(Status { status, exit_type }) = serde_json::from_str(said) else {
        return "Windows tells no more of it".to_owned();
    };
    match exit_type.as_str() {
        "GracefulExit" => SWITCHED_OFF.to_owned(),
        "ForcedExit" => "it was ended".to_owned(),
        "Initialized" | "Starting" => "it did not start".to_owned(),
        // UnexpectedExit: a kernel that gave up resets its machine, which is not started again.
        _ if status == 0 => "it gave up".to_owned(),
        _ => format!("it ended with {status:#010x}"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::hcs::EndTold;
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

        fn make_state(&self, file: &Path) -> Result<(), Failure> {
            self.record("make-state", &file.display().to_string())
        }

        fn enumerate(&self) -> Result<String, Failure> {
            Ok("[]".to_owned())
        }
    }

    impl System for Recorder {
        fn order(&self, order: Order, options: Option<&str>) -> Result<(), Failure> {
            self.record(order.call(), options.unwrap_or_default())
        }

        fn modify(&self, request: &str, _: Option<&Identity>) -> Result<(), Failure> {
            self.record("modify", request)
        }

        fn on_end(&self, told: EndTold) -> Result<(), Failure> {
            told(r#"{"Status":0,"ExitType":"GracefulExit"}"#);
            self.record("on-end", "")
        }

        fn properties(&self, _: &str) -> Result<String, Failure> {
            Ok(r#"{"Id":"dev","RuntimeId":"01020304-0506-0708-090A-0B0C0D0E0F10","State":"Created"}"#
                .to_owned())
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
            network: None,
            user: "S-1".to_owned(),
            console: None,
            saved: None,
        }
    }

    fn calls(recorder: &Recorder) -> Vec<String> {
        recorder.calls.take()
    }

    fn started(recorder: &Recorder) -> Machine<Recorder> {
        let machine = Machine::make(recorder, "dev", &spec()).ok().unwrap();
        machine.start().unwrap();
        calls(recorder);
        machine
    }

    #[test]
    fn a_machine_has_an_id_before_it_runs() {
        let recorder = Recorder::default();
        let machine = Machine::make(&recorder, "dev", &spec()).ok().unwrap();
        assert_eq!(machine.runtime_id().unwrap().to_string(), "01020304-0506-0708-090a-0b0c0d0e0f10");
        machine.start().unwrap();
        assert_eq!(calls(&recorder), ["create dev", "HcsStartComputeSystem"]);
        machine.remove_share("c").unwrap();
        let request = r#"modify {"ResourcePath":"VirtualMachine/Devices/Plan9/Shares","RequestType":"Remove","Settings":{"Name":"c","AccessName":"c","Port":564}}"#;
        assert_eq!(calls(&recorder), [request]);
    }

    #[test]
    fn an_end_is_told_in_words() {
        for (said, expected) in [
            (r#"{"Status":0,"ExitType":"GracefulExit"}"#, "it was switched off"),
            (r#"{"Status":-1070137082,"ExitType":"UnexpectedExit"}"#, "it ended with 0xc0370106"),
            (r#"{"Status":0,"ExitType":"UnexpectedExit"}"#, "it gave up"),
            ("", "Windows tells no more of it"),
        ] {
            assert_eq!(how(said), expected, "{said}");
        }
    }

    #[test]
    fn a_machine_that_can_not_be_saved_goes_on() {
        let recorder = Recorder { fails: Some(("HcsSaveComputeSystem", 0x8007_0070)), ..Recorder::default() };
        let machine = started(&recorder);
        let failure = machine.save(Path::new("state")).unwrap_err();
        assert_eq!(failure.call, "HcsSaveComputeSystem");
        let expected = [
            "HcsPauseComputeSystem",
            r#"HcsSaveComputeSystem {"SaveType":"ToFile","SaveStateFilePath":"state"}"#,
            "HcsResumeComputeSystem",
        ];
        assert_eq!(calls(&recorder), expected);
    }

    #[test]
    fn one_that_was_saved_stands_still() {
        let recorder = Recorder::default();
        let machine = started(&recorder);
        machine.save(Path::new("state")).unwrap();
        assert!(calls(&recorder).last().unwrap().starts_with("HcsSaveComputeSystem"));
    }

    #[test]
    fn ending_what_has_ended_is_no_failure() {
        for (code, is_failure) in [(0x8037_0110, false), (0x8007_0005, true)] {
            let recorder =
                Recorder { fails: Some(("HcsTerminateComputeSystem", code)), ..Recorder::default() };
            let machine = started(&recorder);
            assert_eq!(machine.end().is_err(), is_failure);
        }
    }
}
