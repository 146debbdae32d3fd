//! Clients that take their time.

use super::client::{Answer, Client, RAW, assert_serves, is_end, lines_of};
use crate::bed::{Bed, PATIENCE, stop};
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// Sends `head`, then a byte a second, until the connection ends; gives what was answered.
fn drip(address: SocketAddr, head: String) -> Option<Answer> {
    let mut client = Client::connect(address);
    client.send(head);
    client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "it is not cut");
        match client.reader.fill_buf() {
            Err(error) if !is_end(&error) => client.send("x"),
            _ => {
                client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return client.answer();
            }
        }
    }
}

#[test]
fn a_byte_a_second_is_cut_in_head_and_body_while_others_are_served() {
    let mut bed = Bed::new();
    let limits = "limits: { head_timeout: 1s, body_timeout: 1s, idle_timeout: 2s }";
    bed.setup.server_keys = vec![limits.into()];
    let product = bed.start();
    let api = product.api;
    let head = || "GET /ready HTTP/1.1\r\nhost: x\r\nslow: ".to_owned();
    let body = || format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
    let slow: Vec<_> = (0..20)
        .map(|number| {
            let (in_body, start) = (number % 2 == 0, if number % 2 == 0 { body() } else { head() });
            thread::spawn(move || (in_body, drip(api, start)))
        })
        .collect();
    let silent = thread::spawn(move || Client::connect(api).answer());
    let mut served = 0;
    while !slow.iter().all(thread::JoinHandle::is_finished) {
        assert_serves(&product);
        served += 1;
    }
    assert!(served > 1, "{served}");
    for client in slow {
        match client.join().unwrap() {
            (true, answer) => {
                let answer = answer.expect("a body that is given up is answered");
                assert_eq!(answer.status, 408, "{answer:?}");
                assert!(answer.closes(), "{answer:?}");
            }
            (false, answer) => assert!(answer.is_none_or(|answer| answer.status == 408)),
        }
    }
    let idle = silent.join().unwrap();
    assert!(idle.is_none(), "who says nothing is told nothing: {idle:?}");
    assert!(lines_of(&bed, &product).iter().all(|line| line == "well-behaved"));
    stop(product);
}

#[test]
fn a_body_below_the_least_rate_is_cut_long_before_its_time() {
    let mut bed = Bed::new();
    bed.setup.server_keys = vec!["limits: { body_timeout: 1h, body_rate_min: 1KiB }".into()];
    let product = bed.start();
    let head = format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n");
    let answer = drip(product.api, head).expect("an answer");
    assert_eq!(answer.status, 408, "{answer:?}");
    assert_serves(&product);
    stop(product);
}

#[test]
fn bodies_that_are_declared_and_do_not_come_keep_nobody_out() {
    let bed = Bed::new();
    let product = bed.start();
    let head = format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 16777216\r\n");
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(product.api);
        client.send(format!("{head}expect: 100-continue\r\n\r\n"));
        // Their turn has come: the body is being read, or they were told to wait.
        let status = client.answer().expect("an answer").status;
        assert!(matches!(status, 100 | 503), "{status}");
        waiting.push(client);
    }
    let other = Client::from(Ipv4Addr::new(127, 0, 0, 2), product.api).post(RAW, "", "other\n");
    let other = other.expect("an answer");
    assert_eq!(other.status, 204, "{other:?}");
    assert_eq!(lines_of(&bed, &product), ["other"]);
    stop(product);
}
