//! Faults of `data_dir`, and of what is in it.

use super::{good, look, look_with, small};
use crate::bed::{BINARY, Bed, stop};
use crate::crash::disks::{Mounted, made};
use crate::golden::{copy_of, patch};
use crate::tools::{contents, flip, frames, unsent};
use io::format::{FORMAT_VERSION, FormatVersion};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const MIB: u64 = 1 << 20;

#[test]
fn a_data_dir_that_others_may_write_to_is_no_go() {
    let bed = good();
    fs::create_dir(bed.setup.data_dir()).unwrap();
    fs::set_permissions(bed.setup.data_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let found = look(&bed);
    found.assert("data_dir", "no-go", "others may write to it (mode 777)", "chmod 700 it");
    found.assert_otherwise_well(&["data_dir"]);
}

#[test]
fn a_data_dir_of_another_user_is_a_warning() {
    let bed = good();
    fs::create_dir(bed.setup.data_dir()).unwrap();
    if std::os::unix::fs::chown(bed.setup.data_dir(), Some(65534), None).is_err() {
        eprintln!("skipped: only root can give a directory away");
        return;
    }
    let found = look(&bed);
    found.assert(
        "data_dir",
        "warning",
        "belongs to user 65534",
        "run this as the user of log-capturer",
    );
    found.assert_otherwise_well(&["data_dir"]);
}

#[test]
fn a_file_in_the_place_of_data_dir_or_above_it_is_no_go() {
    let bed = good();
    fs::write(bed.setup.data_dir(), "").unwrap();
    look(&bed).assert("data_dir", "no-go", "is no directory", "choose another data_dir");
    let below = bed.setup.yaml().replace("/data\"", "/data/below\"");
    look_with(&bed, &below, &[]).assert("data_dir", "no-go", "is no directory", "move it away");
}

#[test]
fn a_file_system_that_cannot_be_written_is_no_go() {
    let bed = good();
    let data_dir = bed.setup.data_dir();
    let Some(_mounted) = made(Mounted::tmpfs(&data_dir, 128 * MIB)) else { return };
    let ran = Command::new("mount").args(["-o", "remount,ro"]).arg(&data_dir).status().unwrap();
    assert!(ran.success());
    let found = look(&bed);
    found.assert("data_dir", "no-go", "Read-only file system", "mount it for writing");
    found.assert_otherwise_well(&["data_dir"]);
}

#[test]
fn a_file_system_without_direct_io_is_no_go() {
    let bed = good();
    let Some(_mounted) = made(Mounted::ramfs(&bed.setup.data_dir())) else { return };
    let found = look(&bed);
    found.assert("direct_io", "no-go", "cannot do direct I/O", "put data_dir on ext4 or xfs");
    found.assert("file_system", "warning", "ramfs", "put data_dir on a local ext4 or xfs");
}

#[test]
fn a_disk_that_is_too_small_and_quotas_that_are_too_large_are_told_apart() {
    let mut bed = good();
    bed.setup.cores = "{ shards: 1 }".into();
    let data_dir = bed.setup.data_dir();
    let Some(mounted) = made(Mounted::tmpfs(&data_dir, 128 * MIB)) else { return };
    look(&bed).assert("disk_space", "ok", "128 MiB", "");
    fs::write(data_dir.join("other"), vec![0; 80 << 20]).unwrap();
    look(&bed).assert("disk_space", "warning", "full before the quotas", "lower wal.bytes_max");
    fs::write(data_dir.join("more"), vec![0; 44 << 20]).unwrap();
    look(&bed).assert("disk_space", "no-go", "too little for any shard", "free 76.0 MiB");
    fs::remove_file(data_dir.join("other")).unwrap();
    fs::remove_file(data_dir.join("more")).unwrap();
    bed.setup.wal = "{ bytes_max: 1GiB }".into();
    look(&bed).assert(
        "disk_space",
        "warning",
        "the quotas are larger than the disk: nothing is lost where it is full",
        "on a larger disk",
    );
    drop(mounted);
}

#[test]
fn a_quota_that_is_too_small_for_its_shards_is_no_go() {
    let mut bed = good();
    bed.setup.cores = "{ shards: 9 }".into();
    let found = look(&bed);
    found.assert("quota", "no-go", "expected at least 72 MiB", "set fewer cores.shards");
}

#[test]
fn a_lock_that_another_program_has_is_no_go() {
    let bed = good();
    fs::create_dir(bed.setup.data_dir()).unwrap();
    let lock = File::create(bed.setup.data_dir().join("lock")).unwrap();
    lock.try_lock().unwrap();
    let found = look(&bed);
    let pid = format!("(pid {})", std::process::id());
    found.assert("data_dir_in_use", "no-go", &pid, "stop it, or choose another data_dir");
    found.assert_otherwise_well(&["data_dir_in_use"]);
}

#[test]
fn a_format_that_is_newer_is_no_go_and_an_older_one_can_be_gone_back_to() {
    let newest = FormatVersion::NEWEST.number();
    let mut bed = copy_of(newest - 1);
    small(&mut bed);
    fs::set_permissions(bed.setup.data_dir(), fs::Permissions::from_mode(0o700)).unwrap();
    bed.append("a.log", "one\n");
    let before = contents(&bed.setup.data_dir());
    let found = look(&bed);
    found.assert_otherwise_well(&[]);
    found.assert("rollback", "ok", &format!("to a program of format {}", newest - 1), "");
    found.assert("logs", "ok", "no damage", "");
    assert!(contents(&bed.setup.data_dir()) == before, "something was changed");

    let stated = bed.setup.data_dir().join("format");
    fs::write(&stated, format!("{}\n", FORMAT_VERSION + 1)).unwrap();
    look(&bed).assert(
        "formats",
        "no-go",
        "is written here, and this program knows",
        "start the newer program",
    );
    fs::write(&stated, "two\n").unwrap();
    look(&bed).assert(
        "formats",
        "no-go",
        "expected a line with the number of a format",
        "remove it",
    );
    fs::remove_file(&stated).unwrap();
    let later = before.keys().find(|path| path.ends_with("wal/checkpoint.a")).unwrap();
    patch(later, FORMAT_VERSION + 1, FORMAT_VERSION + 1);
    look(&bed).assert("formats", "no-go", "needs a reader of version", "start the");
    // One that is read, and that the program before could not.
    patch(later, newest, newest);
    fs::write(&stated, format!("{}\n", newest - 1)).unwrap();
    look(&bed).assert(
        "rollback",
        "warning",
        "not to a program of format",
        "keep the present program",
    );
}

/// A program that does this when it is asked for its formats.
fn program(bed: &Bed, script: &str) -> String {
    let path = bed.setup.dir.join("the program before");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn the_kept_program_is_asked_whether_it_reads_what_is_there() {
    let bed = good();
    let product = bed.start();
    bed.texts(1);
    stop(product);
    let look = |previous: &str| look_with(&bed, &bed.setup.yaml(), &["--previous", previous]);
    let same = look(BINARY);
    same.assert("rollback_program", "ok", "and all that is there", "");
    assert_eq!(same.finding("rollback_program")["of"], BINARY);
    let none = look("/nothing/there");
    assert!(none.all().iter().all(|of| of["name"] != "rollback_program"));
    let old = look(&program(&bed, r#"echo '{"newest": 1}'"#));
    old.assert("rollback_program", "warning", "it would refuse what is there: ", "of its own");
    old.assert_otherwise_well(&["rollback_program"]);
    for (script, found) in [
        // With a child that has its output still.
        ("sleep 600 & sleep 600", "no answer within 10s"),
        ("echo no such command >&2; exit 2", "no such command"),
        ("echo '<html>'", "it answers otherwise"),
        ("exec yes", "it answers otherwise"),
        ("echo '{}'", "it names no newest format"),
    ] {
        look(&program(&bed, script)).assert("rollback_program", "warning", found, "run it by hand");
    }
}

#[test]
fn a_broken_checkpoint_is_a_warning() {
    let bed = good();
    let product = bed.start();
    bed.texts(1);
    stop(product);
    look(&bed).assert("logs", "ok", "no damage", "");
    let slots = contents(&bed.setup.data_dir()).into_iter();
    let mut slots = slots.filter(|(path, _)| path.to_str().unwrap().contains("wal/checkpoint."));
    let (slot, mut bytes) = slots.next().expect("there is a checkpoint");
    bytes[20] ^= 0xff;
    fs::write(&slot, &bytes).unwrap();
    let found = look(&bed);
    found.assert("logs", "warning", "a checkpoint: ", "nothing: the ");
    found.assert_otherwise_well(&["logs"]);
}

#[test]
fn a_damaged_segment_is_no_go_with_its_place_and_what_to_save() {
    let mut bed = unsent(&["one", "two", "three"]);
    bed.stub.come_back();
    small(&mut bed);
    look(&bed).assert("logs", "ok", "no damage", "");
    let second = &frames(&bed.setup)[1];
    flip(second);
    let found = look(&bed);
    let place = format!("byte {}", second.offset);
    found.assert("logs", "no-go", &place, "save what can be read by wal export");
    assert_eq!(found.finding("logs")["figures"]["first_seq"], 2);
    found.assert_otherwise_well(&["logs"]);
}
