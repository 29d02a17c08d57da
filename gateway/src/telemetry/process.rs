//! What this process takes from the machine, read from `/proc/self` when somebody asks.
//!
//! Guarantees that a field that cannot be read is left as it was: a scrape never fails for it.

use metrics::{describe_gauge, gauge};

/// Registers names, units and help once.
pub(super) fn describe() {
    describe_gauge!("process_resident_memory_bytes", "Memory in RAM.");
    describe_gauge!("process_cpu_seconds", "User and system CPU time used since start.");
    describe_gauge!("process_open_fds", "Open file descriptors.");
    describe_gauge!("process_threads", "Threads.");
    describe_gauge!("orbit_uptime_seconds", "Time since the process started.");
    describe_gauge!("orbit_build_info", "Always 1; the labels say what runs.");
    gauge!("orbit_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Reads everything now.
pub(super) fn observe() {
    if let Some(bytes) = resident_bytes() {
        gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    if let Some(open) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
        // One of them is the directory being read.
        gauge!("process_open_fds").set(open.saturating_sub(1) as f64);
    }
    if let Some(times) = times() {
        gauge!("process_cpu_seconds").set(times.cpu_s);
        gauge!("process_threads").set(times.threads);
        gauge!("orbit_uptime_seconds").set(times.uptime_s);
    }
}

/// Resident set in bytes.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What `/proc/self/stat` says about time.
struct Times {
    cpu_s: f64,
    uptime_s: f64,
    threads: f64,
}

fn times() -> Option<Times> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    // The second field, the name in parentheses, may hold anything; the third is the state.
    let rest = stat.rsplit_once(')')?.1;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<f64>().ok();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let since_boot_s: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some(Times {
        cpu_s: (field(14)? + field(15)?) / ticks,
        threads: field(20)?,
        uptime_s: since_boot_s - field(22)? / ticks,
    })
}
