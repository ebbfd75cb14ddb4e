//! Which way machines would run by here, and why. Nothing leads to them yet.

use vm_hyperv::choice::Found;

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    let way = match Found::here().choose() {
        Ok(choice) => Check {
            is_good: true,
            what: format!("a way to run machines: {}", choice.reason),
            remedy: String::new(),
        },
        Err(none) => Check { is_good: false, what: none.to_string(), remedy: none.hint },
    };
    vec![way, super::no_machines()]
}
