//! Engines run in machines alone here: what those need of Windows.

use vm_hyperv::choice::Found;

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    let machines = match Found::here().choose() {
        Ok(choice) => {
            Check { is_good: true, what: format!("machines: {}", choice.reason), remedy: String::new() }
        }
        Err(none) => Check { is_good: false, what: none.to_string(), remedy: none.hint },
    };
    let images = host::machine::images();
    let images = Check {
        is_good: images.is_dir(),
        what: format!("guest images in {}", images.display()),
        remedy: "install Cove's package, or name their folder by COVE_GUEST_IMAGES".to_owned(),
    };
    vec![machines, images]
}
