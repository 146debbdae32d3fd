//! The command line, the configuration, the endpoints and systemd.

use crate::bed::{BINARY, Bed, PATIENCE, agent, eventually, stop};
use crate::crash::disks::{Mounted, made};
use bench::product::{Error, Product};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).env("HOSTNAME", "here").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Why it did not start, and its exit code.
fn refusal(bed: &Bed) -> (String, Option<i32>) {
    match Product::start(&bed.setup) {
        Err(Error::Exited { status, log }) => (log, status.code()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
}

#[test]
fn check_prints_the_whole_configuration_and_run_takes_it() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/full.yaml");
    let output = run(&["check", "--config", example]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for line in ["push_bytes_max: 3MiB", "host: here", "shards: auto", "drain_timeout: 10s"] {
        assert!(printed.contains(line), "{line} is missing in {printed}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("printed.yaml");
    fs::write(&file, &printed).unwrap();
    let again = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(text(&again.stdout), printed);
}

#[test]
fn a_wrong_configuration_is_refused_with_all_its_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    fs::write(&file, "version: 1\ndata_dir: rel\nsinks: { loki: { url: x, lingr: 5ms } }\n")
        .unwrap();
    for command in ["check", "run"] {
        let output = run(&[command, "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(78));
        assert!(output.stdout.is_empty());
        let errors = text(&output.stderr);
        assert!(errors.contains("config.yaml:2: data_dir: expected an absolute path"), "{errors}");
        assert!(errors.contains("did you mean linger?"), "{errors}");
        assert!(
            errors.trim_end().ends_with(&format!("3 errors in {}", file.display())),
            "{errors}"
        );
    }
    let output = run(&["check", "--config", "/nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for args in [&["run"][..], &["run", "--loki", "http://x"], &["check"], &["fly"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).contains("Usage"), "{args:?}");
    }
    assert!(text(&run(&["--help"]).stdout).contains("demo"));
    assert!(text(&run(&["--version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_a_file_it_follows_the_paths_it_is_given() {
    let bed = Bed::new();
    bed.append("a.log", "by its path\n");
    fs::create_dir(bed.log("deep")).unwrap();
    bed.append("deep/b.log", "by its directory\n");
    // Its ports are the usual ones: another one may have them.
    let taken = ["127.0.0.1:8401", "127.0.0.1:8001"].map(TcpListener::bind);
    if taken.iter().any(Result::is_err) {
        eprintln!("skipped: port 8401 or 8001 is taken");
        return;
    }
    drop(taken);
    let mut child = Command::new(BINARY)
        .args(["run", "--loki", &bed.stub.url(), "--data-dir"])
        .arg(bed.setup.data_dir())
        .args([bed.log("a.log"), bed.log("deep")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = bed.texts(2);
    lines.sort();
    assert_eq!(lines, ["by its directory", "by its path"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_directory_belongs_to_one_process() {
    let bed = Bed::new();
    let product = bed.start();
    let (log, code) = refusal(&bed);
    assert_eq!(code, Some(78));
    assert!(log.contains("is in use by another log-capturer"), "{log}");
    stop(product);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let bed = Bed::new();
    fs::create_dir(bed.setup.data_dir()).unwrap();
    fs::set_permissions(bed.setup.data_dir(), fs::Permissions::from_mode(0o770)).unwrap();
    let (log, code) = refusal(&bed);
    assert_eq!(code, Some(78));
    assert!(log.contains("others may write to it") && log.contains("chmod 700"), "{log}");
}

#[test]
fn a_directory_that_cannot_be_made_is_refused() {
    let bed = Bed::new();
    fs::write(bed.setup.data_dir(), "a file").unwrap();
    let (log, code) = refusal(&bed);
    assert_eq!(code, Some(78));
    assert!(log.contains("data_dir"), "{log}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let bed = Bed::new();
    let owner = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = owner.local_addr().unwrap();
    let yaml = bed.setup.yaml().replacen("127.0.0.1:0", &address.to_string(), 1);
    let file = bed.setup.dir.join("taken.yaml");
    fs::write(&file, yaml).unwrap();
    let output = run(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let errors = text(&output.stderr);
    assert!(errors.contains(&format!("server.listen: cannot listen on {address}")), "{errors}");
}

#[test]
fn a_cpu_that_is_not_there_is_refused() {
    let mut bed = Bed::new();
    bed.setup.cores = "{ shards: [0, 999] }".into();
    let (log, code) = refusal(&bed);
    assert_eq!(code, Some(78));
    assert!(log.contains("999"), "{log}");
}

#[test]
fn one_cpu_is_enough() {
    let mut bed = Bed::new();
    bed.setup.cpus = vec![0];
    bed.append("a.log", "x\n");
    let product = bed.start();
    bed.lines(1);
    stop(product);
}

#[test]
fn the_endpoints_answer() {
    let bed = Bed::new();
    let product = bed.start();
    let agent = agent();
    let get = |address: std::net::SocketAddr, path: &str| {
        let mut response = agent.get(format!("http://{address}{path}")).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    };
    assert_eq!(get(product.api, "/ready"), (200, "ready\n".into()));
    assert_eq!(get(product.api, "/nothing").0, 404);
    let post = agent.post(format!("http://{}/ready", product.api)).send("x").unwrap();
    assert_eq!(post.status(), 405);
    let (status, metrics) = get(product.metrics, "/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("# TYPE log_capturer_logs_processed_total counter"));
    assert!(metrics.contains("log_capturer_build_info{version="));
    stop(product);
}

#[test]
fn while_it_stops_it_is_not_ready() {
    let bed = Bed::new();
    bed.stub.go_away(bench::stub::Away::Refusing);
    bed.append("a.log", "x\n");
    let product = bed.start();
    let unacked = "log_capturer_wal_unacked_frames";
    eventually("a frame waits", &product, || product.metric(unacked).unwrap() == 1.0);
    product.signal(rustix::process::Signal::TERM);
    eventually("it says that it stops", &product, || !product.is_ready());
    bed.stub.heal();
    assert!(product.wait(PATIENCE).unwrap().success());
    assert_eq!(bed.texts(1), ["x"], "what was in the log was drained");
}

#[test]
fn systemd_is_told() {
    let bed = Bed::new();
    let path = bed.setup.dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let file = bed.setup.dir.join("config.yaml");
    fs::write(&file, bed.setup.yaml()).unwrap();
    let mut child = Command::new(BINARY)
        .args(["run", "--config", file.to_str().unwrap()])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let receive = || {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).unwrap();
        text(&buffer[..len]).trim().to_owned()
    };
    let until = |wanted: &str| while receive() != wanted {};
    until("READY=1");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    until("STOPPING=1");
    assert!(child.wait().unwrap().success());
}

/// As a seccomp profile of a container has it: io_uring is not for us.
#[test]
fn where_io_uring_is_forbidden_it_is_said_with_the_fix() {
    let bed = Bed::new();
    let config = bed.setup.dir.join("config.yaml");
    fs::write(&config, bed.setup.yaml()).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("run").arg("--config").arg(&config);
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    // SAFETY: between fork and exec it makes two system calls on memory of its own, and nothing else.
    unsafe { command.pre_exec(move || forbid(setup)) };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("io_uring cannot be used") && said.contains("seccomp"), "{said}");
    assert!(!bed.setup.data_dir().join("shard-00").exists(), "nothing was made");
}

/// From now on this system call is answered EPERM.
fn forbid(number: u32) -> std::io::Result<()> {
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("a small number"),
        jt,
        jf,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).expect("small");
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refused),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live for the calls, which copy them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A file system without O_DIRECT.
#[test]
fn where_the_file_system_has_no_direct_io_it_is_said_with_the_fix() {
    let bed = Bed::new();
    let Some(_mounted) = made(Mounted::ramfs(&bed.setup.data_dir())) else { return };
    let (log, code) = refusal(&bed);
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("O_DIRECT") && log.contains("data_dir"), "{log}");
}
