//! What is measured, as numbers. The page is made from this alone.

use serde::{Deserialize, Serialize};

/// One run.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Results {
    /// "full", or "quick" for a small sample.
    pub(crate) sample: String,
    pub(crate) machine: Machine,
    /// Duration of the whole run.
    pub(crate) seconds: u64,
    /// Measurements that have failed twice.
    pub(crate) failures: Vec<String>,
    pub(crate) times: Vec<Times>,
    pub(crate) bare: Option<Bare>,
    pub(crate) floods: Vec<FloodResult>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) clients: Vec<Clients>,
    pub(crate) replays: Vec<Replay>,
    pub(crate) kills: Vec<Kill>,
}

/// Where and with what it was measured.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) hypervisor: Option<String>,
    /// The load of the last minute before the run: how busy the machine was with other work.
    #[serde(default)]
    pub(crate) load: f64,
    pub(crate) kernel: String,
    pub(crate) system: String,
    /// Name and version of each tool.
    pub(crate) versions: Vec<(String, String)>,
}

/// Knock to open, in microseconds, of each run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) peer: String,
    pub(crate) title: String,
    pub(crate) tool: String,
    /// From the start of the client to the first accepted connection.
    pub(crate) whole: Vec<f64>,
    /// From the first frame of the knock on the cable.
    pub(crate) wire: Vec<f64>,
    /// Knocks that opened nothing within three seconds.
    pub(crate) failed: usize,
}

/// The sender against a rule that drops everything at ingress.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bare {
    pub(crate) bytes: usize,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
    pub(crate) seconds: f64,
    /// CPU time of the sender and of the kernel for each frame, in microseconds.
    pub(crate) sender_us: f64,
}

/// A flood of forged packets with honest knocks in it.
#[derive(Serialize, Deserialize)]
pub(crate) struct FloodResult {
    pub(crate) peer: String,
    pub(crate) title: String,
    pub(crate) forgery: String,
    pub(crate) bytes: usize,
    /// Packets per second: as asked for, and as sent.
    pub(crate) asked: u64,
    pub(crate) rate: f64,
    pub(crate) sent: u64,
    /// Honest knocks, and those that opened the port for their address during the flood.
    pub(crate) knocks: usize,
    pub(crate) opened: usize,
    /// Time from the start of the client to open, in milliseconds, of those that opened.
    pub(crate) open_ms: Vec<f64>,
    /// CPU time of the tool's processes for each forged packet, and their share of one core, while no honest client
    /// knocked.
    pub(crate) cpu_us: f64,
    pub(crate) cpu_share: f64,
    /// CPU time of the sender and of the kernel, of both machines, for each frame, in microseconds.
    pub(crate) sender_us: f64,
}

/// Memory of a tool's processes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) peer: String,
    pub(crate) title: String,
    /// Forged packets so far; none at rest.
    pub(crate) forged: u64,
    pub(crate) processes: Vec<Process>,
}

/// The proportional set size of a process.
#[derive(Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pss_kib: u64,
}

/// Costs with many clients.
#[derive(Serialize, Deserialize)]
pub(crate) struct Clients {
    pub(crate) peer: String,
    pub(crate) title: String,
    pub(crate) clients: usize,
    /// Time to start; none if it takes too long.
    pub(crate) start_ms: Option<f64>,
    pub(crate) wire: Vec<f64>,
    pub(crate) failed: usize,
    /// Of a flood at a moderate rate.
    pub(crate) rate: f64,
    pub(crate) cpu_us: f64,
    pub(crate) cpu_share: f64,
}

/// What a recorded knock opens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Replay {
    pub(crate) peer: String,
    pub(crate) title: String,
    pub(crate) case: String,
    /// For the address of the recorded client, and for the one that sends the recording.
    pub(crate) opens_recorded: bool,
    pub(crate) opens_sender: bool,
}

/// What is open after the daemon is killed while a grant runs.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kill {
    pub(crate) peer: String,
    pub(crate) title: String,
    pub(crate) killed: String,
    /// Time from the knock until the port was closed; none if it was still open at the end.
    pub(crate) closed_s: Option<f64>,
    /// How long the grant was for, and when the last look was.
    pub(crate) granted_s: u32,
    pub(crate) watched_s: u32,
    /// If it was still open: whether it was closed after the daemon was started again.
    pub(crate) closed_by_start: Option<bool>,
}

/// The minimum, the median and the 99th percentile of measurements.
pub(crate) fn spread(times: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some([sorted[0], sorted[sorted.len() / 2], sorted[(last * 99).div_ceil(100)]])
}
