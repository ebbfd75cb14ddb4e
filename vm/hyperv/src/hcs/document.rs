//! The documents that the service is told what a machine is by, and what is to be changed of it.
//!
//! Source: Microsoft's "HCS JSON schema reference", and hcsshim's `internal/hcs/schema2`. Fields that stand for nothing
//! are left out, as the service has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::hcn::Endpoint;

/// Memory comes in pieces of 2 MiB.
const PIECE: u64 = 2 << 20;
/// What Plan 9's protocol is usually spoken at.
pub const SHARES_PORT: u32 = 564;
/// Flags of a share (`Plan9ShareFlags`): the guest can't write; it may keep modes and owners; files are opened by whoever
/// the share was added for, and not by the service, which may open all.
const READ_ONLY: u32 = 0x1;
const LINUX_METADATA: u32 = 0x4;
const AS_ITS_USER: u32 = 0x10;
/// What the one adapter is called among a machine's.
const ADAPTER: &str = "0";

/// What a machine is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// What it boots.
    pub kernel: PathBuf,
    /// What is in memory at first.
    pub initrd: PathBuf,
    /// What the kernel is told, beside what every machine of this service needs.
    pub options: String,
    /// Its disks, in the order in which the guest finds them: files of the form VHDX.
    pub disks: Vec<Disk>,
    /// Its way out.
    pub network: Option<Endpoint>,
    /// Who may speak with the guest: the user's security id, `S-1-5-21-…`.
    pub user: String,
    /// The pipe at which its console is heard.
    pub console: Option<PathBuf>,
    /// A file that it was saved to, to go on from.
    pub saved: Option<PathBuf>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its file.
    pub path: PathBuf,
    /// The guest can't write to it.
    pub read_only: bool,
}

/// A folder of this computer that the guest mounts by Plan 9's protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What the guest asks for.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// The guest can't write to it.
    pub read_only: bool,
}

/// A machine's document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ComputeSystem {
    owner: String,
    schema_version: Version,
    /// It ends with the process that has it: one that crashed leaves nothing that runs.
    should_terminate_on_last_handle_closed: bool,
    virtual_machine: VirtualMachine,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    major: u32,
    minor: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VirtualMachine {
    stop_on_reset: bool,
    chipset: Chipset,
    compute_topology: Topology,
    devices: Devices,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_state: Option<RestoreState>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Chipset {
    linux_kernel_direct: LinuxKernelDirect,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LinuxKernelDirect {
    kernel_file_path: PathBuf,
    init_rd_path: PathBuf,
    kernel_cmd_line: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Topology {
    memory: Memory,
    processor: Processor,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Memory {
    #[serde(rename = "SizeInMB")]
    size_in_mb: u64,
    /// It takes what is used of it, and gives back what the guest says is free.
    allow_overcommit: bool,
    enable_deferred_commit: bool,
    enable_cold_discard_hint: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Processor {
    count: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Devices {
    scsi: BTreeMap<String, Scsi>,
    hv_socket: HvSocket,
    /// Without shares: each is added for somebody, which a document can't say.
    plan9: Plan9,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    network_adapters: BTreeMap<String, NetworkAdapter>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    com_ports: BTreeMap<String, ComPort>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scsi {
    attachments: BTreeMap<String, Attachment>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attachment {
    r#type: String,
    path: PathBuf,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HvSocket {
    hv_socket_config: HvSocketConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HvSocketConfig {
    default_bind_security_descriptor: String,
    default_connect_security_descriptor: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plan9 {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkAdapter {
    endpoint_id: String,
    mac_address: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plan9Share {
    name: String,
    access_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    port: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flags: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ComPort {
    named_pipe: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestoreState {
    save_state_file_path: PathBuf,
}

impl Spec {
    /// The document of this machine.
    #[must_use]
    pub fn document(&self) -> ComputeSystem {
        let attachment = |disk: &Disk| Attachment {
            r#type: "VirtualDisk".to_owned(),
            path: disk.path.clone(),
            read_only: disk.read_only,
        };
        let attachments =
            self.disks.iter().enumerate().map(|(at, disk)| (at.to_string(), attachment(disk))).collect();
        let adapter = |endpoint: &Endpoint| {
            let (endpoint_id, mac_address) = (endpoint.id.to_string(), endpoint.mac.clone());
            (ADAPTER.to_owned(), NetworkAdapter { endpoint_id, mac_address })
        };
        let com_port = |pipe: &PathBuf| ("0".to_owned(), ComPort { named_pipe: pipe.clone() });
        let allowed = descriptor(&self.user);
        ComputeSystem {
            owner: "cove".to_owned(),
            // The oldest that knows a Linux kernel without firmware; Windows itself does from build 18286 on.
            schema_version: Version { major: 2, minor: 1 },
            should_terminate_on_last_handle_closed: true,
            virtual_machine: VirtualMachine {
                stop_on_reset: true,
                chipset: Chipset {
                    linux_kernel_direct: LinuxKernelDirect {
                        kernel_file_path: self.kernel.clone(),
                        init_rd_path: self.initrd.clone(),
                        kernel_cmd_line: self.kernel_options(),
                    },
                },
                compute_topology: Topology {
                    memory: Memory {
                        size_in_mb: megabytes(self.memory),
                        allow_overcommit: true,
                        enable_deferred_commit: true,
                        enable_cold_discard_hint: true,
                    },
                    processor: Processor { count: self.cpus },
                },
                devices: Devices {
                    scsi: BTreeMap::from([("0".to_owned(), Scsi { attachments })]),
                    hv_socket: HvSocket {
                        hv_socket_config: HvSocketConfig {
                            default_bind_security_descriptor: allowed.clone(),
                            default_connect_security_descriptor: allowed,
                        },
                    },
                    plan9: Plan9 {},
                    network_adapters: self.network.iter().map(adapter).collect(),
                    com_ports: self.console.iter().map(com_port).collect(),
                },
                restore_state: self.saved.clone().map(|path| RestoreState { save_state_file_path: path }),
            },
        }
    }

    /// Without firmware there are no devices of PCs to be looked for, each of which takes the kernel a while.
    fn kernel_options(&self) -> String {
        let ports = u32::from(self.console.is_some());
        let console = match self.console {
            // It is not tried whether the port tells of having sent: nobody may be there yet.
            Some(_) => " 8250_core.skip_txen_test=1 console=ttyS0,115200",
            None => "",
        };
        format!("8250_core.nr_uarts={ports}{console} panic=-1 pci=off pmtmr=0 {}", self.options)
            .trim_end()
            .to_owned()
    }

    /// Files that the machine opens, which it must be let.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let disks = self.disks.iter().map(|disk| disk.path.as_path());
        [self.kernel.as_path(), self.initrd.as_path()].into_iter().chain(disks).chain(self.saved.as_deref())
    }
}

impl ComputeSystem {
    /// As the service reads it.
    #[must_use]
    pub fn text(&self) -> String {
        text(self)
    }
}

/// Full rights for the system, administrators and the user, and none for others.
fn descriptor(user: &str) -> String {
    format!("D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;{user})")
}

impl Plan9Share {
    fn of(share: &Share) -> Self {
        let read_only = if share.read_only { READ_ONLY } else { 0 };
        Self {
            name: share.tag.clone(),
            access_name: share.tag.clone(),
            path: Some(share.path.clone()),
            port: SHARES_PORT,
            flags: Some(LINUX_METADATA | AS_ITS_USER | read_only),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Modification<T> {
    resource_path: &'static str,
    request_type: &'static str,
    settings: T,
}

const SHARES: &str = "VirtualMachine/Devices/Plan9/Shares";

/// The request that adds a folder to a machine that runs.
#[must_use]
pub fn add_share(share: &Share) -> String {
    text(&Modification { resource_path: SHARES, request_type: "Add", settings: Plan9Share::of(share) })
}

/// The request that takes one away.
#[must_use]
pub fn remove_share(tag: &str) -> String {
    let settings = Plan9Share {
        name: tag.to_owned(),
        access_name: tag.to_owned(),
        path: None,
        port: SHARES_PORT,
        flags: None,
    };
    text(&Modification { resource_path: SHARES, request_type: "Remove", settings })
}

/// The request that changes how much memory a machine has that runs.
#[must_use]
pub fn set_memory(bytes: u64) -> String {
    let settings = megabytes(bytes);
    let resource_path = "VirtualMachine/ComputeTopology/Memory/SizeInMB";
    text(&Modification { resource_path, request_type: "Update", settings })
}

/// In whole pieces.
fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE) * (PIECE >> 20)
}

/// What saving is told: where to.
#[must_use]
pub fn save_to(file: &Path) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Save<'a> {
        save_type: &'static str,
        save_state_file_path: &'a Path,
    }
    text(&Save { save_type: "ToFile", save_state_file_path: file })
}

/// Paths of Windows that are no Unicode can't be told the service; what stands for them is refused by it.
fn text(of: &impl Serialize) -> String {
    serde_json::to_string(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::guid::Guid;

    fn spec() -> Spec {
        Spec {
            cpus: 2,
            memory: (2 << 30) + 1,
            kernel: r"C:\cove\kernel".into(),
            initrd: r"C:\cove\initrd".into(),
            options: "quiet cove.data=/dev/sdb".to_owned(),
            disks: vec![
                Disk { path: r"C:\cove\system.vhdx".into(), read_only: true },
                Disk { path: r"C:\cove\data.vhdx".into(), read_only: false },
            ],
            network: Some(Endpoint { id: Guid::of_name("dev"), mac: "00-15-5D-01-02-03".to_owned() }),
            user: "S-1-5-21-1-2-3-1001".to_owned(),
            console: None,
            saved: None,
        }
    }

    #[test]
    fn a_machine_is_described_as_the_service_reads_it() {
        let document: Value = serde_json::from_str(&spec().document().text()).unwrap();
        let allowed = "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;S-1-5-21-1-2-3-1001)";
        let expected = json!({
            "Owner": "cove",
            "SchemaVersion": { "Major": 2, "Minor": 1 },
            "ShouldTerminateOnLastHandleClosed": true,
            "VirtualMachine": {
                "StopOnReset": true,
                "Chipset": { "LinuxKernelDirect": {
                    "KernelFilePath": r"C:\cove\kernel",
                    "InitRdPath": r"C:\cove\initrd",
                    "KernelCmdLine": "8250_core.nr_uarts=0 panic=-1 pci=off pmtmr=0 quiet cove.data=/dev/sdb",
                } },
                "ComputeTopology": {
                    "Memory": {
                        "SizeInMB": 2050,
                        "AllowOvercommit": true,
                        "EnableDeferredCommit": true,
                        "EnableColdDiscardHint": true,
                    },
                    "Processor": { "Count": 2 },
                },
                "Devices": {
                    "Scsi": { "0": { "Attachments": {
                        "0": { "Type": "VirtualDisk", "Path": r"C:\cove\system.vhdx", "ReadOnly": true },
                        "1": { "Type": "VirtualDisk", "Path": r"C:\cove\data.vhdx" },
                    } } },
                    "HvSocket": { "HvSocketConfig": {
                        "DefaultBindSecurityDescriptor": allowed,
                        "DefaultConnectSecurityDescriptor": allowed,
                    } },
                    "Plan9": {},
                    "NetworkAdapters": { "0": {
                        "EndpointId": Guid::of_name("dev").to_string(), "MacAddress": "00-15-5D-01-02-03",
                    } },
                },
            },
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn a_share_is_added_for_its_user() {
        let share = |read_only| Share { tag: "c".to_owned(), path: r"C:\".into(), read_only };
        let expected = |flags: u32| {
            json!({
                "ResourcePath": "VirtualMachine/Devices/Plan9/Shares",
                "RequestType": "Add",
                "Settings": { "Name": "c", "AccessName": "c", "Path": r"C:\", "Port": 564, "Flags": flags },
            })
        };
        for (read_only, flags) in [(true, 0x15), (false, 0x14)] {
            let request: Value = serde_json::from_str(&add_share(&share(read_only))).unwrap();
            assert_eq!(request, expected(flags));
        }
    }

    #[test]
    fn memory_is_set_in_whole_pieces() {
        let request = r#"{"ResourcePath":"VirtualMachine/ComputeTopology/Memory/SizeInMB","RequestType":"Update","Settings":1026}"#;
        assert_eq!(set_memory((1 << 30) + 1), request);
    }

    #[test]
    fn a_machine_with_a_console_listens_at_a_pipe() {
        let document = Spec { console: Some(r"\\.\pipe\cove-console".into()), ..spec() }.document();
        let document: Value = serde_json::from_str(&document.text()).unwrap();
        let pipe = document.pointer("/VirtualMachine/Devices/ComPorts/0/NamedPipe");
        assert_eq!(pipe, Some(&json!(r"\\.\pipe\cove-console")));
        let options = document.pointer("/VirtualMachine/Chipset/LinuxKernelDirect/KernelCmdLine").unwrap();
        assert!(
            options
                .as_str()
                .unwrap()
                .starts_with("8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200 ")
        );
    }

    #[test]
    fn one_that_was_saved_goes_on_from_its_file_which_it_may_open() {
        let spec = Spec { saved: Some(r"C:\cove\state".into()), ..spec() };
        let document: Value = serde_json::from_str(&spec.document().text()).unwrap();
        let from = document.pointer("/VirtualMachine/RestoreState/SaveStateFilePath");
        assert_eq!(from, Some(&json!(r"C:\cove\state")));
        assert!(spec.files().any(|file| file == Path::new(r"C:\cove\state")));
        assert_eq!(spec.files().count(), 5);
    }

    #[test]
    fn a_document_that_is_read_again_is_the_same() {
        let document = spec().document();
        assert_eq!(serde_json::from_str::<ComputeSystem>(&document.text()).unwrap(), document);
    }
}
