//! Engines run in machines alone here, and nothing leads to those yet.

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    vec![super::no_machines()]
}
