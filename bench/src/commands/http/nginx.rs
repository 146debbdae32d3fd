//! nginx as what the product is held against: it takes a POST's body off the connection, drops it, and
//! answers 204. No server does less and still speaks HTTP.

use super::super::on_path;
use super::{Cpus, Error};
use crate::load::{Client, client};
use crate::product::{Usage, usage};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "nginx";
const START_TIME_MAX: Duration = Duration::from_secs(10);
const STOP_TIME_MAX: Duration = Duration::from_secs(2);
const WAIT_STEP: Duration = Duration::from_millis(5);

/// A running nginx with one worker; it ends when it is dropped.
pub struct Nginx {
    child: Child,
    log: PathBuf,
    pub addr: SocketAddr,
}

impl Nginx {
    /// The program, so that a missing one is said before anything is measured.
    pub fn program() -> Result<PathBuf, Error> {
        on_path(PROGRAM).ok_or(Error::Missing { program: PROGRAM })
    }

    /// Starts it under `dir`, all of it on one CPU, and sees that it takes bodies.
    pub fn start(dir: &Path, cpu: usize) -> Result<Nginx, Error> {
        let program = Nginx::program()?;
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        let addr = free_port().map_err(file("find a free port for", &program))?;
        let (config, log) = (dir.join("nginx.conf"), dir.join("nginx.log"));
        fs::write(&config, configuration(dir, &log, addr)).map_err(file("write", &config))?;
        let output = File::create(&log).map_err(file("create", &log))?;
        // It is told to end also where this process comes to its end in no orderly way.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", &Cpus::list(&[cpu])])
            .arg(&program)
            .arg("-p")
            .arg(dir)
            .arg("-e")
            .arg(&log)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(file("run", &program))?;
        let mut nginx = Nginx { child, log, addr };
        let start = Instant::now();
        let mut client = loop {
            match Client::connect(addr, START_TIME_MAX) {
                Ok(client) => break client,
                Err(_) if start.elapsed() < START_TIME_MAX => std::thread::sleep(WAIT_STEP),
                Err(error) => return Err(nginx.wrong(error.to_string())),
            }
            if let Ok(Some(status)) = nginx.child.try_wait() {
                let text = nginx.said();
                return Err(Error::Ended { program: PROGRAM, status, text });
            }
        };
        nginx.takes_bodies(&mut client)?;
        Ok(nginx)
    }

    /// A body that was left on the connection would be read as the next request, and this one is
    /// none: it would be answered 400, and the connection closed.
    fn takes_bodies(&self, client: &mut Client) -> Result<(), Error> {
        let mut request = Vec::new();
        client::post("/", "", b"this is no request\r\n\r\n", &mut request);
        for _ in 0..3 {
            match client.send(&request) {
                Ok(204) => {}
                Ok(status) => return Err(self.wrong(format!("it answered {status}"))),
                Err(error) => return Err(self.wrong(error.to_string())),
            }
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wrong(&self, what: String) -> Error {
        Error::Nginx { what, log: self.said() }
    }

    /// Of its worker, which does all the work.
    pub fn usage(&self) -> Result<Usage, Error> {
        let worker = self.worker().ok_or_else(|| self.wrong("it has no worker".into()))?;
        usage(worker).map_err(|source| Error::File {
            action: "look at",
            path: format!("/proc/{worker}").into(),
            source,
        })
    }

    fn worker(&self) -> Option<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let worker = self.worker();
        let signal = |id: Option<u32>, signal| {
            if let Some(id) = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(id, signal);
            }
        };
        // Told to end, it ends its worker first; killed, it would leave it behind.
        signal(Some(self.child.id()), Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < STOP_TIME_MAX {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(WAIT_STEP);
        }
        signal(worker, Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(dir: &Path, log: &Path, addr: SocketAddr) -> String {
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path \"{dir}/{kind}\";\n"))
        .collect();
    format!(
        "daemon off;\nworker_processes 1;\npid \"{dir}/nginx.pid\";\nerror_log \"{}\" error;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 1h;\n\
         {temporary}  server {{ listen {addr} backlog=2048; location / {{ return 204; }} }}\n}}\n",
        log.display(),
    )
}

/// It cannot tell which port it was given: one that was free a moment ago.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
