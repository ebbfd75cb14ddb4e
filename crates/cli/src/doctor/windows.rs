//! Engines run in machines alone here: what those need of Windows.

use vm_hyperv::wsl::Wsl;

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    let wsl = match Wsl::of_the_system().version() {
        Ok(version) => Check {
            is_good: true,
            what: format!("WSL {version}, which runs machines"),
            remedy: String::new(),
        },
        Err(error) => {
            let remedy = error.hint().unwrap_or("see 'wsl --status'").to_owned();
            Check { is_good: false, what: format!("WSL, which runs machines: {error}"), remedy }
        }
    };
    let images = host::machine::images();
    let images = Check {
        is_good: images.is_dir(),
        what: format!("guest images in {}", images.display()),
        remedy: "install Cove's package, or name their folder by COVE_GUEST_IMAGES".to_owned(),
    };
    vec![wsl, images]
}
