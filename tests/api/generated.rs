//! Requests that schemathesis makes of the document, right and wrong ones: each is answered as the document
//! says. .ci/run installs it; where it is missing the test says so and ends.

use super::{ask, show};
use crate::answers::ask::{Pushed, numbered, push};
use crate::bed::{Bed, eventually, stop};
use crate::clients::{has, libraries, runs};
use bench::stub::Fault;
use std::path::Path;
use std::process::Command;

#[test]
fn the_document_and_the_answers_agree() {
    let schemathesis = libraries().join("venv/bin/schemathesis");
    let how = "pip install schemathesis, in target/clients/venv";
    if !has("schemathesis", runs(&schemathesis, &["--version"]), how) {
        return;
    }
    let mut bed = Bed::new();
    // A tenant that is wrong is refused where it is looked at.
    bed.setup.server_keys = vec!["tenant_header: true".into()];
    let product = bed.start();
    // So that nothing of what is shown is empty.
    bed.stub.set_fault(Fault::answer(400, "not this\n"));
    push(&product, "", &[Pushed::now("a", numbered("bad", 1))]);
    eventually("there is a dead letter", &product, || show(&product, "/dlq/stats")["entries"] == 1);
    bed.stub.heal();
    bed.append("a.log", "a\nb\n");
    let url = format!("http://{}", product.api);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/schemathesis.toml");
    let output = Command::new(schemathesis)
        .current_dir(&bed.setup.dir)
        .arg("--config-file")
        .arg(config)
        .args(["--no-color", "run", &format!("{url}/openapi.json"), "--url", &url])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    let end = said.find("= SUMMARY =").map_or(&said[..], |at| &said[at..]);
    println!("{end}");
    assert!(output.status.success(), "{said}\n{wrong}\n{}", product.log());
    let (status, health) = ask(&product, "/health");
    assert_eq!(status, 200, "{health}");
    stop(product);
}
