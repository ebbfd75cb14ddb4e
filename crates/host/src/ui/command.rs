//! What a window can ask for once.

use serde::{Deserialize, Serialize};

use super::connect::ConnectForm;
use super::form::Preview;
use super::machine::{MachineForm, MachineOrder};
use super::network::NetworkForm;
use super::run::RunForm;
use super::volume::VolumeForm;

/// A question or an order. The set is closed: a window can do nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Command {
    /// Start the engine, or look for it again.
    EngineStart,
    /// The end of the log of an engine that was started here. Answered with [`Reply::Text`].
    EngineLog,
    /// Start a container.
    ContainerStart {
        /// Its id.
        id: String,
    },
    /// Ask it to end, kill it after its time.
    ContainerStop {
        /// Its id.
        id: String,
    },
    /// Kill it.
    ContainerKill {
        /// Its id.
        id: String,
    },
    /// Stop and start it.
    ContainerRestart {
        /// Its id.
        id: String,
    },
    /// Freeze it.
    ContainerPause {
        /// Its id.
        id: String,
    },
    /// Thaw it.
    ContainerResume {
        /// Its id.
        id: String,
    },
    /// Remove it.
    ContainerRemove {
        /// Its id.
        id: String,
        /// Kill it first if it runs.
        force: bool,
    },
    /// Everything about it. Answered with [`Reply::Json`].
    ContainerInspect {
        /// Its id.
        id: String,
    },
    /// Check a run form and tell its command line. Answered with [`Reply::Preview`].
    RunPreview {
        /// What was filled in.
        form: Box<RunForm>,
    },
    /// Remove a tag, and the image with its last one.
    ImageRemove {
        /// Its reference, or its id.
        name: String,
        /// Also while stopped containers use it.
        force: bool,
    },
    /// Everything about an image. Answered with [`Reply::Json`].
    ImageInspect {
        /// Its reference, or its id.
        name: String,
    },
    /// Remove the images nothing uses. Answered with [`Reply::Freed`].
    ImagesPrune,
    /// Make a network. Answered with [`Reply::Made`].
    NetworkCreate {
        /// What was filled in.
        form: NetworkForm,
    },
    /// Check a network's form and tell its command line. Answered with [`Reply::Preview`].
    NetworkPreview {
        /// What was filled in.
        form: NetworkForm,
    },
    /// Put a container on a network.
    NetworkConnect {
        /// What was filled in.
        form: ConnectForm,
    },
    /// Check a connection's form and tell its command line. Answered with [`Reply::Preview`].
    ConnectPreview {
        /// What was filled in.
        form: ConnectForm,
    },
    /// Take a container off a network.
    NetworkDisconnect {
        /// The network's id.
        network: String,
        /// The container's id.
        container: String,
    },
    /// Remove a network nobody is on.
    NetworkRemove {
        /// Its id.
        id: String,
    },
    /// Remove the networks no container has, running or not.
    NetworksPrune,
    /// Make a volume. Answered with [`Reply::Made`].
    VolumeCreate {
        /// What was filled in.
        form: VolumeForm,
    },
    /// Check a volume's form and tell its command line. Answered with [`Reply::Preview`].
    VolumePreview {
        /// What was filled in.
        form: VolumeForm,
    },
    /// Remove a volume no container has, and what is in it.
    VolumeRemove {
        /// Its name.
        name: String,
    },
    /// Remove all volumes no container has, and what is in them. Answered with [`Reply::Freed`].
    VolumesPrune,
    /// Something about a machine, which needs no engine.
    Machine {
        /// What.
        order: MachineOrder,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// Done, nothing to tell.
    Done,
    /// A document to show as it is.
    Json {
        /// The engine's answer.
        #[cfg_attr(test, ts(type = "unknown"))]
        value: serde_json::Value,
    },
    /// A text to show as it is.
    Text {
        /// The text.
        text: String,
    },
    /// A form's command line and what is wrong with it.
    Preview(Preview),
    /// A machine's form, filled in.
    Machine {
        /// The form, to be sent back as it is.
        form: MachineForm,
        /// Why it is of this kind, where there was something to choose; or why this computer can have none.
        reason: Option<String>,
    },
    /// What was made.
    Made {
        /// A network's id, a volume's or a machine's name.
        id: String,
    },
    /// How much was freed.
    Freed {
        /// Bytes.
        bytes: u64,
    },
}
