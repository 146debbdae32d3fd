//! More connections than there is room for.

use super::client::{Client, RAW, assert_serves, is_end, lines_of, missing, noise, request};
use crate::bed::{Bed, eventually, stop};
use bench::product::Product;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

/// As many descriptors as this process may have.
fn raise_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let max = maximum.unwrap_or(1 << 20);
    if current.is_some_and(|current| current < max) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(max), maximum }).unwrap();
    }
    max
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    let max = raise_descriptors();
    let count = 10_000.min(max.saturating_sub(1000));
    let mut bed = Bed::new();
    bed.setup.server_keys =
        vec!["limits: { connections_max: 20000, address_connections_max: 15000 }".into()];
    let product = bed.start();
    let before = product.usage().unwrap().rss_bytes;
    let idle: Vec<_> = (0..count).map(|_| TcpStream::connect(product.api).unwrap()).collect();
    let open = || product.usage().unwrap().descriptors;
    eventually("all are accepted", &product, || open() > count);
    let mut other = Client::from(Ipv4Addr::new(127, 0, 0, 2), product.api);
    for path in ["/ready", "/health"] {
        assert_eq!(other.get(path).expect("an answer").status, 200);
    }
    assert_eq!(other.post(RAW, "", "among many\n").expect("an answer").status, 204);
    assert!(product.metric("log_capturer_http_requests_total").unwrap() >= 1.0);
    let grown = product.usage().unwrap().rss_bytes.saturating_sub(before);
    println!("{count} idle connections take {} bytes each", grown / count);
    assert!(grown / count < 32 << 10, "{grown} bytes");
    assert_eq!(lines_of(&bed, &product), ["among many"]);
    drop(idle);
    eventually("all are closed", &product, || open() < 200);
    stop(product);
}

/// A connection that is counted among the others, and stays.
fn settled(source: Ipv4Addr, product: &Product) -> Client {
    let mut client = None;
    eventually("a connection is let in", product, || {
        // One that was told to close counts until it does.
        client = None;
        let mut next = Client::from(source, product.api);
        let is_in = next.get("/ready").is_some_and(|answer| !answer.closes());
        client = Some(next);
        is_in
    });
    client.expect("it was let in")
}

fn assert_crowded(client: &mut Client) {
    let answer = client.post(RAW, "", "too many\n").expect("an answer");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u64>().is_ok()), "{answer:?}");
    assert!(answer.closes(), "{answer:?}");
    client.expect_end();
}

#[test]
fn beyond_the_most_connections_pushes_wait_and_questions_are_answered() {
    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    let mut bed = Bed::new();
    bed.setup.server_keys =
        vec!["limits: { connections_max: 8, address_connections_max: 4 }".into()];
    let product = bed.start();
    let mut here: Vec<_> = (0..4).map(|_| settled(HERE, &product)).collect();
    assert_crowded(&mut Client::from(HERE, product.api));
    let mut asking = Client::from(HERE, product.api);
    let answer = asking.get("/health").expect("an answer");
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    // Another address has its own share, and there is one for all.
    let mut there: Vec<_> = (0..4).map(|_| settled(THERE, &product)).collect();
    for client in there.iter_mut().chain(&mut here) {
        assert_eq!(client.post(RAW, "", "let in\n").expect("an answer").status, 204);
    }
    assert_crowded(&mut Client::from(Ipv4Addr::new(127, 0, 0, 3), product.api));
    // However many come, what they can hold is little.
    let crowd: Vec<_> = (0..200).map(|_| TcpStream::connect(product.api).unwrap()).collect();
    eventually("most are turned away", &product, || {
        product.usage().unwrap().descriptors < 100
            && crowd.iter().filter(|c| ended(c)).count() > 150
    });
    drop((crowd, here, there));
    let mut client = settled(HERE, &product);
    assert_eq!(client.post(RAW, "", "let in\n").expect("an answer").status, 204);
    assert!(lines_of(&bed, &product).iter().all(|line| line == "let in"));
    stop(product);
}

/// Whether the other side has closed.
fn ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => is_end(&error),
    }
}

/// Leaves the product so many descriptors more than it has, and gives what it could have before.
fn limit_descriptors(product: &Product, more: u64) -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(product.usage().unwrap().descriptors + more);
    let pid = i32::try_from(product.pid()).ok().and_then(Pid::from_raw);
    let before = prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    before.current.unwrap_or(1 << 20)
}

/// Connects until the product has no descriptors any more.
fn take_descriptors(product: &Product) -> Vec<Client> {
    let mut many: Vec<_> = (0..40).map(|_| Client::connect(product.api)).collect();
    many.iter_mut().for_each(|client| client.send("GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"));
    eventually("it has no descriptors", product, || refused_descriptors(product) > 0);
    many
}

fn refused_descriptors(product: &Product) -> usize {
    product.log().matches("a connection could not be accepted").count()
}

#[test]
fn without_descriptors_it_goes_on_rests_and_comes_back() {
    let bed = Bed::new();
    let product = bed.start();
    let mut old = Client::connect(product.api);
    assert_eq!(old.post(RAW, "", "before\n").expect("an answer").status, 204);
    bed.entries(1);
    limit_descriptors(&product, 8);
    let many = take_descriptors(&product);
    let (start, cpu) = (Instant::now(), product.usage().unwrap().cpu);
    let said = refused_descriptors(&product);
    eventually("it tries now and then", &product, || refused_descriptors(&product) >= said + 5);
    let took = product.usage().unwrap().cpu - cpu;
    assert!(took < start.elapsed() / 2, "{took:?} of CPU in {:?}", start.elapsed());
    assert_eq!(old.post(RAW, "", "during\n").expect("an answer").status, 204);
    drop(many);
    assert_serves(&product);
    assert_eq!(lines_of(&bed, &product), ["before", "during", "well-behaved"]);
    stop(product);
}

#[test]
fn without_descriptors_for_its_log_it_does_not_end_and_loses_nothing() {
    let mut bed = Bed::new();
    bed.setup.wal = "{ bytes_max: 64MiB, segment_bytes: 1MiB }".into();
    let product = bed.start();
    let mut old = Client::connect(product.api);
    assert_eq!(old.post(RAW, "", "before\n").expect("an answer").status, 204);
    bed.entries(1);
    limit_descriptors(&product, 8);
    let many = take_descriptors(&product);
    let (mut answered, mut refused) = (Vec::new(), 0);
    for number in 0..30 {
        let line = noise(number, 200_000);
        let answer = old.post(RAW, "", &line);
        let answer = answer.unwrap_or_else(|| panic!("no answer\n{}", product.log()));
        assert!(matches!(answer.status, 204 | 503), "{answer:?}");
        match answer.status {
            204 => answered.push(line),
            _ => refused += 1,
        }
    }
    println!("{} posts were answered with success, {refused} were not", answered.len());
    drop(many);
    assert_serves(&product);
    eventually("what was answered arrives", &product, || missing(&bed, &answered) == 0);
    eventually("posting works again", &product, || {
        let answer = old.post(RAW, "", noise(100, 200_000)).expect("an answer");
        answer.status == 204
    });
    stop(product);
}

#[test]
fn among_many_connections_a_body_that_nobody_read_is_no_request() {
    raise_descriptors();
    let bed = Bed::new();
    let product = bed.start();
    // So many that each gives its buffers back after every answer.
    let idle: Vec<_> = (0..400).map(|_| TcpStream::connect(product.api).unwrap()).collect();
    eventually("all are accepted", &product, || product.usage().unwrap().descriptors > 400);
    let smuggled = format!("POST {RAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nsmuggled\n");
    for (path, length, status) in
        [("/ready", smuggled.len(), 405), ("/nowhere", smuggled.len(), 404), (RAW, 1 << 40, 413)]
    {
        let mut client = Client::connect(product.api);
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        client.send(head);
        client.expect(status);
        client.send(&smuggled);
        client.expect_end();
    }
    // Those that were read whole go on.
    let mut client = Client::connect(product.api);
    for _ in 0..3 {
        assert_eq!(client.post(RAW, "", "well-behaved\n").expect("an answer").status, 204);
        assert_eq!(client.get("/ready").expect("an answer").status, 200);
    }
    client.send([request(RAW, "", "piped\n"), request(RAW, "", "piped\n")].concat());
    client.expect(204);
    client.expect(204);
    let lines = lines_of(&bed, &product);
    assert_eq!(lines, ["well-behaved", "well-behaved", "well-behaved", "piped", "piped"]);
    drop(idle);
    stop(product);
}
