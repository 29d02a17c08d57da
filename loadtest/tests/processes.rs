//! The processes that are attacked: they die when they are told to, are missed when they die
//! alone, and never outlive whoever started them.

use std::path::Path;
use std::time::Duration;

use orbit_loadtest::stage::process::Daemon;
use rustix::process::Signal;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_loadtest");
/// After this what should happen is not happening.
const BOUND: Duration = Duration::from_secs(20);

fn daemon(directory: &Path, program: &str, arguments: &[&str]) -> Daemon {
    let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let log = directory.join("log");
    Daemon::new("the program", Path::new(LAUNCHER), Path::new(program), arguments, log)
}

/// The state of a process as /proc tells it; `None` when it is gone or waits to be buried.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next().filter(|state| *state != 'Z')
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, wait).await.is_ok(), "{what} did not come about");
}

#[tokio::test]
async fn a_process_is_stopped_killed_and_started_again() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut sleep = daemon(directory.path(), "sleep", &["1000"]);
    assert!(!sleep.kill().await, "nothing runs");
    sleep.start().expect("it starts");
    let first = sleep.pid().expect("it runs");
    sleep.start().expect("it runs already");
    assert!(sleep.signal(Signal::STOP));
    until("the stop", || state(first) == Some('T')).await;
    assert!(sleep.kill().await, "a stopped process dies as well");
    assert_eq!(state(first), None);
    sleep.start().expect("it starts again");
    assert_ne!(sleep.pid(), Some(first));
    assert_eq!((sleep.starts(), sleep.kills()), (2, 1));
    let ended = sleep.stop(BOUND).await.expect("it ends when asked to");
    assert!(!ended.success(), "sleep knows no orderly end");
    assert_eq!(sleep.ended_alone(), [""; 0]);
}

#[tokio::test]
async fn a_process_that_ends_by_itself_is_missed_with_its_last_words() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut shell = daemon(directory.path(), "sh", &["-c", "echo out of luck; exit 3"]);
    shell.start().expect("it starts");
    until("its end", || !shell.is_running()).await;
    let [told] = shell.ended_alone() else { panic!("once, not {:?}", shell.ended_alone()) };
    assert!(told.contains("exit status: 3") && told.contains("out of luck"), "{told}");
}

#[tokio::test]
async fn a_process_dies_with_the_thread_that_started_it() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().to_owned();
    let started = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be built").block_on(async {
            let mut sleep = daemon(&path, "sleep", &["1000"]);
            sleep.start().expect("it starts");
            let pid = sleep.pid().expect("it runs");
            // It has become `sleep`, so that it has asked to die with this thread.
            let name = format!("/proc/{pid}/comm");
            until("the launch", || {
                std::fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep")
            })
            .await;
            // Nobody kills it in good order.
            std::mem::forget(sleep);
            pid
        })
    });
    let pid = started.join().expect("the thread ends well");
    until("its death", || state(pid).is_none()).await;
}
