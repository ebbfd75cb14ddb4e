//! Machines as a window has them: rows, what goes on in them, forms, and orders.

pub mod form;
pub mod orders;
pub mod row;
pub(crate) mod watcher;

pub use form::{MachineForm, ShareLine};
pub use orders::MachineOrder;
pub use row::{MachineBackend, MachinePhase, MachineRow, MachineStage};
