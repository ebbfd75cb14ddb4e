//! The fields of the bodies that clients send.

use super::{Field, done, ignored, list, map, object, partly, refused};

const WINDOWS: &str = "Windows' alone; Docker ignores it on Linux too";
const WINDOWS_ASKS: &str = "it is Windows' alone";
const ANSWERS: &str = "the engine reports it; Docker ignores it in a request too";
const KERNEL_MEMORY: &str = "the kernel has no such limit any more; Docker ignores it too";

const HEALTH: &[Field] = &[
    done("Test", r#"["CMD","true"]"#),
    done("Interval", "1000000000"),
    done("Timeout", "1000000000"),
    done("Retries", "3"),
    done("StartPeriod", "1000000000"),
    done("StartInterval", "1000000000").since(44),
];

const RATES: &[Field] = &[done("Path", r#""/dev/sda""#), done("Rate", "7")];

const WEIGHTS: &[Field] = &[done("Path", r#""/dev/sda""#), done("Weight", "7")];

const RESTART: &[Field] =
    &[done("Name", r#""on-failure""#), done("MaximumRetryCount", "3").beside(r#"{"Name":"on-failure"}"#)];

const DEVICES: &[Field] = &[
    done("PathOnHost", r#""/dev/null""#),
    done("PathInContainer", r#""/dev/other""#),
    done("CgroupPermissions", r#""r""#),
];

const ULIMITS: &[Field] = &[done("Name", r#""nofile""#), done("Soft", "7"), done("Hard", "8")];

const MOUNT: &[Field] = &[
    done("Type", r#""tmpfs""#),
    done("Source", r#""/a""#).beside(r#"{"Type":"bind"}"#),
    done("Target", r#""/b""#),
    done("ReadOnly", "true"),
    ignored("Consistency", "Docker Desktop's, between two kernels; Docker ignores it on Linux too"),
    object(
        "BindOptions",
        &[
            done("Propagation", r#""rshared""#),
            done("NonRecursive", "true").since(40),
            done("CreateMountpoint", "true").since(42),
            done("ReadOnlyNonRecursive", "true").since(44),
            done("ReadOnlyForceRecursive", "true").since(44),
        ],
    )
    .beside(r#"{"Type":"bind"}"#),
    object(
        "VolumeOptions",
        &[
            done("NoCopy", "true"),
            done("Labels", r#"{"a":"b"}"#),
            object("DriverConfig", &[done("Name", r#""local""#), done("Options", r#"{"a":"b"}"#)]),
            done("Subpath", r#""a""#).since(45),
        ],
    )
    .beside(r#"{"Type":"volume"}"#),
    object("ImageOptions", &[done("Subpath", r#""a""#)]).beside(r#"{"Type":"image"}"#).since(48),
    object(
        "TmpfsOptions",
        &[done("SizeBytes", "4096"), done("Mode", "448"), done("Options", r#"[["noexec"]]"#).since(46)],
    )
    .beside(r#"{"Type":"tmpfs"}"#),
    refused("ClusterOptions", "cluster volumes are Swarm's, which is not there"),
];

const HOST_CONFIG: &[Field] = &[
    done("CpuShares", "512"),
    done("Memory", "67108864"),
    done("CgroupParent", r#""/a""#),
    done("BlkioWeight", "300"),
    list("BlkioWeightDevice", WEIGHTS),
    list("BlkioDeviceReadBps", RATES),
    list("BlkioDeviceWriteBps", RATES),
    list("BlkioDeviceReadIOps", RATES),
    list("BlkioDeviceWriteIOps", RATES),
    done("CpuPeriod", "100000"),
    done("CpuQuota", "50000"),
    done("CpuRealtimePeriod", "1000000"),
    done("CpuRealtimeRuntime", "950000"),
    done("CpusetCpus", r#""0""#),
    done("CpusetMems", r#""0""#),
    list("Devices", DEVICES),
    done("DeviceCgroupRules", r#"["c 1:3 r"]"#),
    refused("DeviceRequests", "--gpus and device requests are not supported yet"),
    ignored("KernelMemory", KERNEL_MEMORY),
    ignored("KernelMemoryTCP", KERNEL_MEMORY),
    done("MemoryReservation", "67108864"),
    done("MemorySwap", "-1"),
    done("MemorySwappiness", "30"),
    done("NanoCpus", "500000000"),
    done("OomKillDisable", "true"),
    done("Init", "true"),
    done("PidsLimit", "50"),
    list("Ulimits", ULIMITS),
    refused("CpuCount", WINDOWS_ASKS),
    refused("CpuPercent", WINDOWS_ASKS),
    refused("IOMaximumIOps", WINDOWS_ASKS),
    refused("IOMaximumBandwidth", WINDOWS_ASKS),
    done("Binds", r#"["/a:/b"]"#),
    done("ContainerIDFile", r#""/a""#),
    object("LogConfig", &[done("Type", r#""local""#), done("Config", r#"{"max-size":"1m"}"#)]),
    done("NetworkMode", r#""none""#),
    map("PortBindings", &[]),
    object("RestartPolicy", RESTART),
    done("AutoRemove", "true"),
    done("VolumeDriver", r#""local""#),
    done("VolumesFrom", r#"["a"]"#),
    list("Mounts", MOUNT),
    done("ConsoleSize", "[24,80]").since(42),
    done("Annotations", r#"{"a":"b"}"#).since(43),
    done("CapAdd", r#"["NET_ADMIN"]"#),
    done("CapDrop", r#"["ALL"]"#),
    done("CgroupnsMode", r#""host""#).since(41),
    done("Dns", r#"["192.0.2.1"]"#),
    done("DnsOptions", r#"["ndots:2"]"#),
    done("DnsSearch", r#"["example.com"]"#),
    done("ExtraHosts", r#"["a:192.0.2.1"]"#),
    done("GroupAdd", r#"["7"]"#),
    done("IpcMode", r#""host""#),
    refused("Cgroup", "the cgroup of another container can't be joined"),
    done("Links", r#"["a:b"]"#),
    done("OomScoreAdj", "500"),
    done("PidMode", r#""host""#),
    done("Privileged", "true"),
    done("PublishAllPorts", "true"),
    done("ReadonlyRootfs", "true"),
    done("SecurityOpt", r#"["no-new-privileges"]"#),
    refused("StorageOpt", "a container's layer has no quota of its own (--storage-opt)"),
    done("Tmpfs", r#"{"/a":""}"#),
    done("UTSMode", r#""host""#),
    done("UsernsMode", r#""host""#),
    done("ShmSize", "67108864"),
    done("Sysctls", r#"{"net.ipv4.ip_forward":"1"}"#),
    partly(
        "Runtime",
        r#""runc""#,
        "any but Cove's own, by its names `cove`, `runc` and `io.containerd.runc.v2`, is refused",
    ),
    refused("Isolation", WINDOWS_ASKS).unless(&["default"]),
    done("MaskedPaths", "[]"),
    done("ReadonlyPaths", "[]"),
];

const ENDPOINT_SETTINGS: &[Field] = &[
    object(
        "IPAMConfig",
        &[
            done("IPv4Address", r#""192.0.2.7""#),
            done("IPv6Address", r#""2001:db8::7""#),
            done("LinkLocalIPs", r#"["169.254.0.7"]"#),
        ],
    ),
    done("Links", r#"["a:b"]"#),
    done("MacAddress", r#""02:00:00:00:00:07""#).since(44),
    done("Aliases", r#"["a"]"#),
    done("DriverOpts", r#"{"a":"b"}"#).since(32),
    done("GwPriority", "7").since(48),
    ignored("NetworkID", ANSWERS),
    ignored("EndpointID", ANSWERS),
    ignored("Gateway", ANSWERS),
    ignored("IPAddress", ANSWERS),
    ignored("IPPrefixLen", ANSWERS),
    ignored("IPv6Gateway", ANSWERS),
    ignored("GlobalIPv6Address", ANSWERS),
    ignored("GlobalIPv6PrefixLen", ANSWERS),
    ignored("DNSNames", ANSWERS),
];

pub(super) const CREATE_CONTAINER: &[Field] = &[
    done("Hostname", r#""a""#),
    done("Domainname", r#""a""#),
    done("User", r#""1000""#),
    done("AttachStdin", "true"),
    done("AttachStdout", "true"),
    done("AttachStderr", "true"),
    done("ExposedPorts", r#"{"80/tcp":{}}"#),
    done("Tty", "true"),
    done("OpenStdin", "true"),
    done("StdinOnce", "true"),
    done("Env", r#"["A=b"]"#),
    done("Cmd", r#"["true"]"#),
    object("Healthcheck", HEALTH),
    ignored("ArgsEscaped", WINDOWS),
    done("Image", r#""other""#),
    done("Volumes", r#"{"/a":{}}"#),
    done("WorkingDir", r#""/a""#),
    done("Entrypoint", r#"["a"]"#),
    partly("NetworkDisabled", "true", "as the network mode `none`, and so it is shown"),
    done("MacAddress", r#""02:00:00:00:00:07""#).until(51),
    refused("MacAddress", "as of API 1.52 it is a network's, in NetworkingConfig.EndpointsConfig").since(52),
    done("OnBuild", r#"["RUN true"]"#),
    done("Labels", r#"{"a":"b"}"#),
    done("StopSignal", r#""SIGINT""#),
    done("StopTimeout", "3"),
    done("Shell", r#"["/bin/sh"]"#),
    object("HostConfig", HOST_CONFIG),
    object("NetworkingConfig", &[map("EndpointsConfig", ENDPOINT_SETTINGS)]),
    done("CoveRootfs", r#""/a""#),
];

const UPDATE_LIMITS: &str = "it is decided when the container is made";

pub(super) const UPDATE_CONTAINER: &[Field] = &[
    done("CpuShares", "512"),
    done("Memory", "67108864"),
    refused("CgroupParent", UPDATE_LIMITS),
    done("BlkioWeight", "300"),
    refused("BlkioWeightDevice", UPDATE_LIMITS),
    refused("BlkioDeviceReadBps", UPDATE_LIMITS),
    refused("BlkioDeviceWriteBps", UPDATE_LIMITS),
    refused("BlkioDeviceReadIOps", UPDATE_LIMITS),
    refused("BlkioDeviceWriteIOps", UPDATE_LIMITS),
    done("CpuPeriod", "100000"),
    done("CpuQuota", "50000"),
    done("CpuRealtimePeriod", "1000000"),
    done("CpuRealtimeRuntime", "950000"),
    done("CpusetCpus", r#""0""#),
    done("CpusetMems", r#""0""#),
    refused("Devices", UPDATE_LIMITS),
    refused("DeviceCgroupRules", UPDATE_LIMITS),
    refused("DeviceRequests", UPDATE_LIMITS),
    ignored("KernelMemory", KERNEL_MEMORY),
    ignored("KernelMemoryTCP", KERNEL_MEMORY),
    done("MemoryReservation", "67108864"),
    done("MemorySwap", "-1"),
    done("MemorySwappiness", "30"),
    done("NanoCpus", "500000000"),
    refused("OomKillDisable", UPDATE_LIMITS),
    refused("Init", UPDATE_LIMITS),
    done("PidsLimit", "50").since(40),
    refused("Ulimits", UPDATE_LIMITS),
    refused("CpuCount", WINDOWS_ASKS),
    refused("CpuPercent", WINDOWS_ASKS),
    refused("IOMaximumIOps", WINDOWS_ASKS),
    refused("IOMaximumBandwidth", WINDOWS_ASKS),
    object("RestartPolicy", RESTART),
];

pub(super) const CREATE_EXEC: &[Field] = &[
    done("AttachStdin", "true"),
    done("AttachStdout", "true"),
    done("AttachStderr", "true"),
    done("ConsoleSize", "[24,80]").since(42),
    done("DetachKeys", r#""ctrl-a""#),
    done("Tty", "true"),
    done("Env", r#"["A=b"]"#),
    done("Cmd", r#"["true"]"#),
    done("Privileged", "true"),
    done("User", r#""1000""#),
    done("WorkingDir", r#""/a""#).since(35),
];

pub(super) const START_EXEC: &[Field] =
    &[done("Detach", ""), done("Tty", ""), done("ConsoleSize", "").since(42)];

pub(super) const CREATE_NETWORK: &[Field] = &[
    done("Name", r#""a""#),
    ignored("CheckDuplicate", "names are always unique; so in Docker as of 25.0"),
    done("Driver", r#""macvlan""#),
    refused("Scope", "networks are this computer's; Cove has no swarm").unless(&["local"]),
    done("Internal", "true"),
    done("Attachable", "true"),
    refused("Ingress", "it is a swarm's, and Cove has no swarm"),
    refused("ConfigOnly", "it is a swarm's, and Cove has no swarm"),
    object("ConfigFrom", &[refused("Network", "it is a swarm's, and Cove has no swarm")]),
    object(
        "IPAM",
        &[
            partly("Driver", "", "`default`; there are no plugins"),
            list(
                "Config",
                &[
                    done("Subnet", r#""192.0.2.0/24""#),
                    done("IPRange", r#""192.0.2.0/25""#),
                    done("Gateway", r#""192.0.2.1""#),
                    done("AuxiliaryAddresses", r#"{"a":"192.0.2.7"}"#),
                ],
            ),
            partly("Options", "{}", "empty: the allocator has none"),
        ],
    ),
    done("EnableIPv4", "false").since(48),
    done("EnableIPv6", "true"),
    done("Options", r#"{"a":"b"}"#),
    done("Labels", r#"{"a":"b"}"#),
];

pub(super) const CONNECT_NETWORK: &[Field] =
    &[done("Container", ""), object("EndpointConfig", ENDPOINT_SETTINGS)];

pub(super) const DISCONNECT_NETWORK: &[Field] =
    &[done("Container", ""), ignored("Force", "who is on a network can always be taken off it")];

pub(super) const CREATE_VOLUME: &[Field] = &[
    done("Name", r#""a""#),
    done("Driver", r#""local""#),
    done("DriverOpts", r#"{"type":"tmpfs"}"#),
    done("Labels", r#"{"a":"b"}"#),
    refused("ClusterVolumeSpec", "cluster volumes are Swarm's, which is not there"),
];

const NOT_OF_IMAGES: &str = "an image's configuration has no such field; so in Docker";

pub(super) const COMMIT: &[Field] = &[
    ignored("Hostname", NOT_OF_IMAGES),
    ignored("Domainname", NOT_OF_IMAGES),
    done("User", r#""1000""#),
    ignored("AttachStdin", NOT_OF_IMAGES),
    ignored("AttachStdout", NOT_OF_IMAGES),
    ignored("AttachStderr", NOT_OF_IMAGES),
    done("ExposedPorts", r#"{"80/tcp":{}}"#),
    ignored("Tty", NOT_OF_IMAGES),
    ignored("OpenStdin", NOT_OF_IMAGES),
    ignored("StdinOnce", NOT_OF_IMAGES),
    done("Env", r#"["A=b"]"#),
    done("Cmd", r#"["true"]"#),
    object("Healthcheck", HEALTH),
    done("ArgsEscaped", "true"),
    ignored("Image", NOT_OF_IMAGES),
    done("Volumes", r#"{"/a":{}}"#),
    done("WorkingDir", r#""/a""#),
    done("Entrypoint", r#"["a"]"#),
    ignored("NetworkDisabled", NOT_OF_IMAGES),
    ignored("MacAddress", NOT_OF_IMAGES),
    done("OnBuild", r#"["RUN true"]"#),
    done("Labels", r#"{"a":"b"}"#),
    done("StopSignal", r#""SIGINT""#),
    ignored("StopTimeout", NOT_OF_IMAGES),
    done("Shell", r#"["/bin/sh"]"#),
];

pub(super) const AUTH: &[Field] = &[
    done("username", ""),
    done("password", ""),
    ignored("email", "registries do not ask for it; so in Docker"),
    done("serveraddress", ""),
    done("identitytoken", ""),
    refused("registrytoken", "give user name and password"),
    ignored("auth", "user name and password stand beside it"),
];
