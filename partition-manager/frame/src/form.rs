//! The form of a frame file, and the JSON Schema that editors check it by.
//!
//! These types say what may stand where; [`crate::file`] reads the text, and knows the rules that a schema
//! cannot express. Where the two must agree, a test holds them together.

use crate::cpuset::HIGHEST;
use crate::device::{CIDS, FIRST_FREE_SLOT, LARGEST_VLAN, MOST_PORTS, MOST_QUEUE_PAIRS, MOST_TAGGED};
use crate::file::{MOST_DISKS, MOST_SWITCHES};
use crate::launch::{MOST_MODULES, MOST_PROCESSORS};
use crate::platform::PCI_SLOTS;
use crate::storm::{HIGHEST_RATE, LARGEST_BURST};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, json_schema};
use serde_json::{Value, json};

/// A frame: a host, or a declared part of one, and the partitions that divide it.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, title = "Bulkhead frame file")]
pub struct FrameFile {
    /// Further files with pools, switches and partitions; relative paths begin at the directory of this file.
    pub include: Option<Vec<FileName>>,
    /// The frame itself.
    pub frame: Head,
    /// Keys that every partition of this file has unless it says otherwise.
    pub defaults: Option<Settings>,
    /// Shared processor pools.
    pub pool: Option<Vec<Pool>>,
    /// Virtual Ethernet switches.
    #[schemars(length(max = MOST_SWITCHES))]
    pub switch: Option<Vec<Switch>>,
    /// Logical partitions.
    pub partition: Option<Vec<Partition>>,
}

/// A file that a frame file includes.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, title = "File included by a Bulkhead frame file")]
pub struct IncludedFile {
    /// Further files with pools, switches and partitions; relative paths begin at the directory of this file.
    pub include: Option<Vec<FileName>>,
    /// Keys that every partition of this file has unless it says otherwise; over those of the including file.
    pub defaults: Option<Settings>,
    /// Shared processor pools.
    pub pool: Option<Vec<Pool>>,
    /// Virtual Ethernet switches.
    #[schemars(length(max = MOST_SWITCHES))]
    pub switch: Option<Vec<Switch>>,
    /// Logical partitions.
    pub partition: Option<Vec<Partition>>,
}

/// What belongs to the frame as a whole.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Head {
    /// The frame's name; it names the run directory too.
    pub name: Name,
    /// The CPUs that belong to the frame, such as "0-15"; all of the host when left out.
    pub cpus: Option<Cpus>,
    /// Allocation granule: every memory size is a multiple. 2MiB when left out.
    pub memory_block: Option<Size>,
    /// What stays the host's own.
    pub reserved: Option<Reserved>,
    /// Least entitlement of a virtual processor; 0.05 when left out.
    #[schemars(range(min = 0.001, max = 1.0))]
    pub minimum_units: Option<f64>,
    /// Whether other frames that say so too may use the same CPUs.
    pub shared_host: Option<bool>,
}

/// What stays the host's own.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Reserved {
    /// CPUs; 1 when left out. With 0 the host shares a pool.
    #[schemars(range(min = 0, max = HIGHEST))]
    pub cpus: Option<i64>,
    /// Memory; 512MiB when left out.
    pub memory: Option<Size>,
}

/// A shared processor pool: physical CPUs that several partitions live on.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Pool {
    /// The pool's name; partitions that name none mean "default".
    pub name: Name,
    /// Physical CPUs in the pool; one CPU is 1.00 processing units.
    #[schemars(range(min = 1, max = HIGHEST))]
    pub cpus: i64,
}

/// A virtual Ethernet switch.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Switch {
    /// The switch's name, and that of its bridge: at most 10 characters.
    pub name: SwitchName,
    /// The host's network interface by which it reaches the world; none when left out.
    #[schemars(regex(pattern = r"^[!-.0-9;-~]{1,15}$"))]
    pub uplink: Option<String>,
}

/// A logical partition. [`Settings`] are keys of it too.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Partition {
    /// The partition's name. With `count`, a pattern: {n} is the number of each, {n:03} with zeros before it.
    pub name: NamePattern,
    /// The partition's number, unique in the frame.
    #[schemars(range(min = 1, max = 65535))]
    pub id: Option<i64>,
    /// How many partitions of this kind there are, numbered from 1.
    #[schemars(range(min = 1, max = 65535))]
    pub count: Option<i64>,
}

/// What can be said of a partition, and in `[defaults]` of all.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Settings {
    /// Who loses last when there is not enough for all: 0 loses first, 255 last; 127 when left out.
    #[schemars(range(min = 0, max = 255))]
    pub availability_priority: Option<i64>,
    /// Its processors.
    pub processors: Option<Processors>,
    /// Its memory.
    pub memory: Option<Memory>,
    /// What it starts.
    pub boot: Option<Boot>,
    /// Whether it starts with the frame; true when left out.
    pub auto_start: Option<bool>,
    /// What it holds while it is not active: its minimum, or nothing.
    pub when_inactive: Option<WhenInactive>,
    /// How long each rung of a shutdown may take.
    pub shutdown: Option<Shutdown>,
    /// Whether it has an 8254 timer; when left out, only a guest booted by multiboot has one.
    pub pit: Option<bool>,
    /// Whether a write to port 0xf4 ends it with an exit status; false when left out.
    pub exit_device: Option<bool>,
    /// Whether a panic of its kernel ends it, with its registers kept; true when left out. Otherwise the kernel does
    /// what its own settings say.
    pub panic_device: Option<bool>,
    /// Whether it has a watchdog, and what becomes of it when that expires; "none" when left out.
    pub watchdog: Option<Watchdog>,
    /// Where its interrupt controllers are; "kernel" when left out.
    pub interrupts: Option<Interrupts>,
    /// How often each interrupt source of its devices may be raised.
    pub interrupt_limit: Option<InterruptLimit>,
    /// Whether it has a source of random numbers; when left out, a kernel has one and the payload has none.
    pub entropy: Option<bool>,
    /// Disks: raw images or block devices of the host.
    #[schemars(length(max = MOST_DISKS))]
    pub disk: Option<Vec<Disk>>,
    /// Network adapters, on switches of the frame.
    #[schemars(length(max = MOST_DISKS))]
    pub network: Option<Vec<Network>>,
    /// Streams between programs of the host and of the guest, by a Unix socket; none when left out.
    pub vsock: Option<Vsock>,
    /// A second terminal, and ports by which programs of the host and of the guest talk; none when left out.
    pub console: Option<Console>,
}

/// A console device.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Console {
    /// Names of its ports besides the terminal, which is hvc0: the guest sees them, and each has a Unix socket.
    #[schemars(length(max = MOST_PORTS))]
    pub ports: Option<Vec<Name>>,
}

/// A socket device.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's context identifier, which no other partition of the frame has; when left out, the partition's number
    /// and 2.
    #[schemars(range(min = *CIDS.start(), max = *CIDS.end()))]
    pub cid: Option<i64>,
}

/// A network adapter.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Network {
    /// Its name, unique among the devices of the partition.
    pub name: Name,
    /// The switch that it is on.
    pub switch: Name,
    /// The VLAN of its frames without a tag.
    #[schemars(range(min = 1, max = LARGEST_VLAN))]
    pub vlan: i64,
    /// Further VLANs, of which it sends and receives tagged frames; none when left out.
    #[schemars(length(max = MOST_TAGGED), inner(range(min = 1, max = LARGEST_VLAN)))]
    pub tagged: Option<Vec<i64>>,
    /// Its address; when left out, one that follows from the names of frame, partition and adapter.
    #[schemars(regex(pattern = r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$"))]
    pub mac: Option<String>,
    /// Queue pairs; 1 when left out.
    #[schemars(range(min = 1, max = MOST_QUEUE_PAIRS))]
    pub queues: Option<i64>,
    /// Its PCI slot; a free one when left out.
    #[schemars(range(min = FIRST_FREE_SLOT, max = PCI_SLOTS - 1))]
    pub slot: Option<i64>,
    /// What it may send, and receive, in a second: frames and bytes.
    pub limit: Option<DiskLimit>,
}

/// A disk.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Disk {
    /// Its name, unique among the devices of the partition.
    pub name: Name,
    /// A raw image or a block device; a relative path begins at the directory of this file.
    pub path: FileName,
    /// Whether the guest may only read; false when left out.
    pub read_only: Option<bool>,
    /// Serial number that the guest reads: at most 20 characters of ASCII, without spaces.
    #[schemars(regex(pattern = r"^[!-~]{0,20}$"))]
    pub serial: Option<String>,
    /// Its PCI slot; a free one when left out.
    #[schemars(range(min = FIRST_FREE_SLOT, max = PCI_SLOTS - 1))]
    pub slot: Option<i64>,
    /// What it may do in a second.
    pub limit: Option<DiskLimit>,
    /// How the image is asked; "auto" when left out.
    pub engine: Option<DiskEngine>,
    /// Whether the PCI function of the host behind it is this partition's alone: its interrupts then go to the
    /// partition's CPUs. False when left out.
    pub dedicated: Option<bool>,
}

/// How a disk asks the host for what is in its image.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum DiskEngine {
    /// Several requests at once by io_uring, where the host lets partitions have it; else one after the other.
    Auto,
    /// One request after the other.
    Sync,
}

/// What a device may do in a second.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DiskLimit {
    /// Requests, or frames.
    #[schemars(range(min = 1, max = u32::MAX))]
    pub operations: Option<i64>,
    /// Bytes that are moved.
    pub bandwidth: Option<Size>,
}

/// Virtual processors and what backs them.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Processors {
    /// "dedicated" gives whole CPUs, "shared" a part of a pool.
    pub mode: Option<Mode>,
    /// With fewer virtual processors it does not start; as desired when left out.
    #[schemars(range(min = 1, max = MOST_PROCESSORS))]
    pub minimum: Option<i64>,
    /// Virtual processors that it gets when they are free.
    #[schemars(range(min = 1, max = MOST_PROCESSORS))]
    pub desired: Option<i64>,
    /// Never more virtual processors, whatever changes while it runs; as desired when left out.
    #[schemars(range(min = 1, max = MOST_PROCESSORS))]
    pub maximum: Option<i64>,
    /// Dedicated: where its device threads run, "own" (when left out) or "pool:NAME".
    #[schemars(regex(pattern = r"^(own|pool:[a-z0-9][a-z0-9-]{0,62})$"))]
    pub io: Option<String>,
    /// Shared: the pool; "default" when left out.
    pub pool: Option<Name>,
    /// Shared: the entitlement, in processors.
    pub units: Option<Units>,
    /// Shared: what happens above the entitlement; "uncapped" when left out.
    pub sharing: Option<Sharing>,
    /// Shared and uncapped: its part of what is spare; 128 when left out, 0 is as capped.
    #[schemars(range(min = 0, max = 255))]
    pub weight: Option<i64>,
}

/// What backs virtual processors.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Mode {
    /// Each virtual processor has a logical CPU of its own; the set is whole cores.
    Dedicated,
    /// Virtual processors share a pool and are entitled to a part of it.
    Shared,
}

/// What happens above the entitlement.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Sharing {
    /// Never more than the entitlement.
    Capped,
    /// A part of what is spare, by weight.
    Uncapped,
}

/// An entitlement in processing units, in steps of 0.001; one unit is one processor.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Units {
    /// With less it does not start; as desired when left out.
    #[schemars(range(min = 0.001, max = 65536.0))]
    pub minimum: Option<f64>,
    /// What it gets when it is free.
    #[schemars(range(min = 0.001, max = 65536.0))]
    pub desired: Option<f64>,
    /// Never exceeded; as desired when left out.
    #[schemars(range(min = 0.001, max = 65536.0))]
    pub maximum: Option<f64>,
}

/// Memory sizes; each is a multiple of the frame's memory block.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Memory {
    /// With less it does not start; as desired when left out.
    pub minimum: Option<Size>,
    /// What it gets when it is free.
    pub desired: Option<Size>,
    /// Never exceeded; as desired when left out.
    pub maximum: Option<Size>,
    /// Boot memory, which never leaves; as desired when left out.
    pub base: Option<Size>,
    /// Page size that backs it; "any" when left out.
    pub pages: Option<Pages>,
}

/// Page size that backs memory.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Pages {
    #[schemars(rename = "any")]
    Any,
    #[schemars(rename = "4KiB")]
    Small,
    #[schemars(rename = "2MiB")]
    Large,
    #[schemars(rename = "1GiB")]
    Huge,
}

/// What a partition starts: the built-in payload, or a kernel.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Boot {
    /// The built-in payload.
    Word(Payload),
    /// A kernel, or the payload with a command line.
    Table(BootTable),
}

/// A program that is built in.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Payload {
    /// It beats, answers commands on its console, and misbehaves when told to.
    Diagnostics,
}

/// A kernel, or the built-in payload with a command line: exactly one of `kernel` and `payload`.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BootTable {
    /// Linux bzImage, ELF vmlinux, an ELF with a PVH note, or a multiboot image; relative to this file.
    pub kernel: Option<FileName>,
    /// Initial RAM disk.
    pub initrd: Option<FileName>,
    /// Multiboot modules, in order.
    #[schemars(length(max = MOST_MODULES))]
    pub modules: Option<Vec<Module>>,
    /// A program that is built in.
    pub payload: Option<Payload>,
    /// Command line.
    #[schemars(length(max = 2047))]
    pub cmdline: Option<String>,
}

/// A file that a multiboot kernel is given.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Module {
    /// The file.
    pub path: FileName,
    /// The module's command line.
    #[schemars(length(max = 2047))]
    pub cmdline: Option<String>,
}

/// What an inactive partition holds of the frame.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum WhenInactive {
    /// Its minimum, so that it can always be activated.
    Hold,
    /// Nothing.
    Release,
}

/// What becomes of a partition whose guest does not reload its watchdog in time.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Watchdog {
    /// It has no watchdog.
    None,
    /// It is started again.
    Restart,
    /// It stays in Error.
    Error,
}

/// Where the interrupt controllers of a partition are.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Interrupts {
    /// All in the kernel.
    Kernel,
    /// Local APICs in the kernel, the I/O APIC in user space.
    Split,
    /// All in user space, by trap and emulation.
    Emulated,
}

/// How long each rung of a shutdown may take; "0s" leaves it out.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Shutdown {
    /// Asking over the communication channel; 5s when left out.
    pub ask: Option<Duration>,
    /// The ACPI power button; 30s when left out.
    pub button: Option<Duration>,
    /// A non-maskable interrupt; 2s when left out.
    pub nmi: Option<Duration>,
}

/// How often each interrupt source of a partition's devices may be raised. What comes beyond it waits and is coalesced;
/// ten times as many in a second are a storm, and quarantine the source.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct InterruptLimit {
    /// Interrupts in a second; 100000 when left out.
    #[schemars(range(min = 1, max = HIGHEST_RATE))]
    pub rate: Option<i64>,
    /// Interrupts that may come at once; 10000 when left out.
    #[schemars(range(min = 1, max = LARGEST_BURST))]
    pub burst: Option<i64>,
}

/// A text of a form of its own.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $schema:tt) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(pub String);

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text!(
    /// A name that can be a file, a cgroup and a host name.
    Name,
    { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$" }
);
text!(
    /// As [`Name`], of at most 10 characters.
    SwitchName,
    { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,9}$" }
);
text!(
    /// As [`Name`]; with `count` also `{n}`, or `{n:03}` for three digits.
    NamePattern,
    { "type": "string", "pattern": "^([a-z0-9]|\\{n(:0[1-9])?\\})([a-z0-9-]|\\{n(:0[1-9])?\\}){0,62}$" }
);
text!(
    /// CPUs as Linux writes them.
    Cpus,
    { "type": "string", "pattern": "^\\s*[0-9]+\\s*(-\\s*[0-9]+)?\\s*(,\\s*([0-9]+\\s*(-\\s*[0-9]+)?)?\\s*)*$", "examples": ["0-15", "0-3,8"] }
);
text!(
    /// A size.
    Size,
    { "type": "string", "pattern": "^\\s*[0-9]+\\s*(B|KiB|MiB|GiB|TiB|PiB|EiB)\\s*$", "examples": ["512MiB", "2GiB"] }
);
text!(
    /// A time.
    Duration,
    { "type": "string", "pattern": "^\\s*[0-9]+\\s*(ms|s|min|h)\\s*$", "examples": ["5s", "500ms"] }
);
text!(
    /// A path; a relative one begins at the directory of the file that names it.
    FileName,
    { "type": "string", "minLength": 1, "maxLength": 4095 }
);

/// The schema of frame files (JSON Schema draft 7, which editors of TOML understand).
#[must_use]
pub fn schema() -> Value {
    let mut schema = generate::<FrameFile>();
    // Without defaults and includes everything stands where it belongs. A partition of an included file may
    // have its keys from the file that includes it, so nothing can be said of one here.
    let whole = json!({
        "partition": { "items": {
            "required": ["processors", "memory", "boot"],
            "properties": {
                "processors": { "required": ["mode", "desired"], "properties": { "units": { "required": ["desired"] } } },
                "memory": { "required": ["desired"] },
                "boot": { "if": { "type": "object" }, "then": { "oneOf": [
                    { "required": ["kernel"] },
                    { "required": ["payload"] },
                ] } },
            },
            "if": { "properties": { "processors": { "properties": { "mode": { "const": "shared" } } } } },
            "then": { "properties": { "processors": { "required": ["units"] } } },
        } },
    });
    if let Some(root) = schema.as_object_mut() {
        root.insert("if".into(), json!({ "not": { "required": ["defaults"] } }));
        root.insert("then".into(), json!({ "properties": whole }));
    }
    schema
}

/// The schema of files that a frame file includes.
#[must_use]
pub fn included_schema() -> Value {
    generate::<IncludedFile>()
}

/// A schema as it is checked in: indented, with a line break at the end.
#[must_use]
pub fn text(schema: &Value) -> String {
    format!("{schema:#}\n")
}

fn generate<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07();
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    for (place, change) in [
        ("/definitions/Partition", settle as fn(&mut Value, &Value)),
        ("/definitions/Processors", separate),
        ("/definitions/BootTable", choose),
    ] {
        let settings = schema.pointer("/definitions/Settings").cloned().unwrap_or_default();
        if let Some(definition) = schema.pointer_mut(place) {
            change(definition, &settings);
        }
    }
    without_null(&mut schema);
    schema
}

/// A partition has the keys of [`Settings`] beside its own.
fn settle(partition: &mut Value, settings: &Value) {
    let keys = settings.pointer("/properties").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(own) = partition.pointer_mut("/properties").and_then(Value::as_object_mut) {
        own.extend(keys);
    }
    partition["description"] = "A logical partition.".into();
}

/// Each mode has keys of its own.
fn separate(processors: &mut Value, _: &Value) {
    let is = |mode: &str| json!({ "properties": { "mode": { "const": mode } }, "required": ["mode"] });
    processors["allOf"] = json!([
        { "if": is("dedicated"), "then": { "properties": { "pool": false, "units": false, "sharing": false, "weight": false } } },
        { "if": is("shared"), "then": { "properties": { "io": false } } },
        { "if": { "properties": { "sharing": { "const": "capped" } }, "required": ["sharing"] }, "then": { "properties": { "weight": false } } },
    ]);
}

/// Either a kernel and what goes with it, or the payload.
fn choose(boot: &mut Value, _: &Value) {
    boot["if"] = json!({ "required": ["payload"] });
    boot["then"] = json!({ "properties": { "kernel": false, "initrd": false, "modules": false } });
}

/// TOML has no null: what may be left out is only left out.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(kinds)) = map.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [only] = kinds.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(options)) = map.get_mut("anyOf") {
                options.retain(|option| option != &json!({ "type": "null" }));
                if let [only] = options.as_slice() {
                    // A reference stands alone in draft 7; a description beside it needs a list around it.
                    let only = only.clone();
                    map.remove("anyOf");
                    map.insert("allOf".into(), json!([only]));
                }
            }
            if let Some(Value::Array(words)) = map.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            map.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}
