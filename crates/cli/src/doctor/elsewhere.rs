//! Where engines run in machines alone there is nothing to look at before there are any.

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    vec![Check {
        is_good: false,
        what: format!("machines on {}", std::env::consts::OS),
        remedy: "they are not built yet: use an engine elsewhere, by COVE_HOST or --host".to_owned(),
    }]
}
