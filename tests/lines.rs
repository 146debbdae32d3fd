//! Long, half and odd lines: what can be kept is kept, what cannot is counted, and the next line is
//! intact.

use crate::bed::{Bed, eventually, stop};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};

#[test]
fn half_a_line_is_one_line_after_a_restart() {
    let bed = Bed::new();
    let product = bed.start();
    bed.append("a.log", "whole\nhalf of ");
    bed.lines(1);
    stop(product);
    bed.append("a.log", "a line\n");
    let product = bed.start();
    assert_eq!(bed.texts(2), ["whole", "half of a line"]);
    stop(product);
}

#[test]
fn a_line_that_comes_in_pieces_is_one_line() {
    let bed = Bed::new();
    let product = bed.start();
    for piece in ["a", "b", "c", "\nsecond ", "line", "\n"] {
        bed.append("a.log", piece);
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    assert_eq!(bed.texts(2), ["abc", "second line"]);
    stop(product);
}

#[test]
fn a_last_line_without_its_end_is_taken_in_time_or_with_the_file() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["partial_line_timeout: 1s".into()];
    bed.append("a.log", "whole\nno newline");
    let product = bed.start();
    assert_eq!(bed.texts(2), ["whole", "no newline"]);
    assert_eq!(product.metric("log_capturer_partial_lines_total").unwrap(), 1.0);
    bed.append("a.log", "rest\n");
    assert_eq!(bed.texts(3)[2], "rest");
    stop(product);
}

#[test]
fn line_ends_of_windows_and_a_mark_at_the_start_are_left_out() {
    let bed = Bed::new();
    bed.append("a.log", b"\xef\xbb\xbffirst\r\nsecond\r\n\r\nmid\rdle\n");
    let product = bed.start();
    assert_eq!(bed.texts(4), ["first", "second", "", "mid\rdle"]);
    assert_eq!(product.metric("log_capturer_line_ends_stripped_total").unwrap(), 3.0);
    stop(product);
}

#[test]
fn any_bytes_are_kept_as_they_are() {
    let bed = Bed::new();
    let lines: Vec<Vec<u8>> = vec![
        b"nul \0 in the middle".to_vec(),
        b"\xff\xfe not utf-8 \x80".to_vec(),
        (0_u8..=255).filter(|byte| !b"\r\n".contains(byte)).collect(),
        "gr\u{fc}\u{df}e \u{1f980}".into(),
    ];
    bed.append("a.log", [lines.join(&b'\n'), b"\n".to_vec()].concat());
    let product = bed.start();
    let found: Vec<Vec<u8>> = bed.lines(4).into_iter().map(|(_, line)| line).collect();
    assert_eq!(found, lines);
    stop(product);
}

#[test]
fn a_long_line_is_split_and_nothing_of_it_is_lost() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["line_bytes_max: 64KiB".into()];
    let long = "0123456789\u{e4}".repeat(900_000);
    bed.append("a.log", format!("before\n{long}\nafter\n"));
    let product = bed.start();
    let count = 2 + long.len().div_ceil(64 << 10);
    let lines = bed.texts(count);
    assert_eq!((lines[0].as_str(), lines.last().unwrap().as_str()), ("before", "after"));
    assert!(lines.iter().all(|line| line.len() <= 64 << 10));
    assert_eq!(lines[1..lines.len() - 1].concat(), long);
    assert!(product.metric("log_capturer_lines_cut_total").unwrap() > 0.0);
    stop(product);
}

#[test]
fn of_a_long_line_the_start_is_kept_where_that_was_asked_for() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["line_bytes_max: 1KiB".into(), "long_lines: truncate".into()];
    let long = "x".repeat(3_000_000);
    bed.append("a.log", format!("before\n{long}\nafter\n"));
    let product = bed.start();
    assert_eq!(bed.texts(3), ["before", &long[..1024], "after"]);
    let truncated = product.metric("log_capturer_truncated_bytes_total").unwrap();
    assert!((2_998_976.0..=2_998_977.0).contains(&truncated), "{truncated}");
    stop(product);
}

#[test]
fn a_gigabyte_without_a_newline_takes_no_memory() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["long_lines: truncate".into()];
    let mut file = File::create(bed.log("a.log")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"\nafter\n").unwrap();
    let product = bed.start();
    let lines = bed.lines(2);
    assert_eq!((lines[0].1.len(), lines[1].1.as_slice()), (256 << 10, &b"after"[..]));
    let peak = product.usage().unwrap().rss_peak_bytes;
    assert!(peak < 100 << 20, "{peak} bytes");
    stop(product);
}

#[test]
fn a_mark_of_the_end_is_kept_through_a_restart_inside_a_long_line() {
    let mut bed = Bed::new();
    bed.setup.file_keys = vec!["line_bytes_max: 1KiB".into(), "long_lines: truncate".into()];
    bed.append("a.log", "x".repeat(5_000));
    let product = bed.start();
    bed.lines(1);
    let truncated = "log_capturer_truncated_bytes_total";
    eventually("the rest is passed over", &product, || product.metric(truncated).unwrap() > 3e3);
    stop(product);
    bed.append("a.log", "still the same line\nnext\n");
    let product = bed.start();
    assert_eq!(bed.texts(2)[1], "next");
    stop(product);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_does_not_confuse_its_reader() {
    let bed = Bed::new();
    bed.append("a.log", "1\n2\n3\n");
    let product = bed.start();
    bed.lines(3);
    OpenOptions::new().write(true).open(bed.log("a.log")).unwrap().set_len(2).unwrap();
    bed.append("a.log", "4\n5\n6\n7\n");
    let lines = bed.texts(7);
    assert_eq!(lines[lines.len() - 4..], ["4", "5", "6", "7"]);
    assert!(fs::metadata(bed.log("a.log")).unwrap().len() > 6);
    stop(product);
}
