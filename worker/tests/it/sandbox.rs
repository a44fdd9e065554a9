//! The sandbox of this machine's kernel, entered by a thread: what is left to it, and what is not.

use ollamamax_worker::sandbox::{Held, Surroundings, enter};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// Whether it was refused, and not merely failed.
fn is_refused<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn confined_in(own: &Path, models: &Path, other: &Path, port: u16, elsewhere: u16) -> Held {
    let around = Surroundings::look(own.to_owned(), vec![models.to_owned()], port, false);
    let confined = enter(&around).expect("entered");
    assert_eq!(confined.calls, Ok(()), "every kernel we run on filters calls");
    assert!(is_refused(Command::new("/bin/true").status()), "a program is started");
    if confined.files == Held::None {
        return confined.files;
    }
    // Its own.
    fs::create_dir_all(own.join("blobs/below")).expect("its own directory");
    fs::write(own.join("blobs/new"), b"a").expect("its own file");
    fs::rename(own.join("blobs/new"), own.join("moved")).expect("its own file moves");
    fs::remove_file(own.join("moved")).expect("its own file goes");
    // What it reads.
    assert_eq!(fs::read(models.join("model")).expect("readable"), b"a model");
    assert!(is_refused(fs::write(models.join("model"), b"b")), "models are changed");
    assert!(is_refused(fs::remove_file(models.join("model"))), "models are removed");
    assert!(fs::read_to_string("/proc/meminfo").is_ok_and(|text| !text.is_empty()));
    assert!(fs::read_dir("/usr/lib").is_ok(), "libraries are found");
    // Everything else, by whatever way.
    assert!(is_refused(fs::read(other.join("secret"))), "what is another's is read");
    assert!(is_refused(fs::read_dir(other)), "what is another's is listed");
    assert!(is_refused(fs::write(other.join("new"), b"b")), "what is another's is written");
    std::os::unix::fs::symlink(other, own.join("way")).expect("a link is made");
    assert!(is_refused(fs::read(own.join("way/secret"))), "a link leads out");
    assert!(fs::hard_link(models.join("model"), own.join("model")).is_err(), "a link out");
    if confined.files == Held::All {
        TcpListener::bind(("127.0.0.1", port)).expect("its port");
        assert!(is_refused(TcpListener::bind(("127.0.0.1", elsewhere))), "another port");
        let inherited = std::thread::scope(|scope| {
            scope.spawn(|| is_refused(fs::read(other.join("secret")))).join()
        });
        assert!(inherited.expect("it ends"), "a thread of it is free");
    }
    confined.files
}

#[test]
fn a_confined_worker_writes_to_its_own_directory_and_starts_nothing() {
    let made = tempfile::tempdir().expect("a directory");
    let dir = |name: &str| {
        let path = made.path().join(name);
        fs::create_dir(&path).expect("made");
        path
    };
    let (own, models, other) = (dir("own"), dir("models"), dir("other"));
    fs::write(models.join("model"), b"a model").expect("written");
    fs::write(other.join("secret"), b"a secret").expect("written");
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, elsewhere) = (free(), free());
    let number = |socket: &TcpListener| socket.local_addr().expect("an address").port();
    let (port_number, other_number) = (number(&port), number(&elsewhere));
    drop((port, elsewhere));
    let listening = free();
    let reached = listening.local_addr().expect("an address");
    let held = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let held = confined_in(&own, &models, &other, port_number, other_number);
            TcpStream::connect(reached).expect("it reaches nodes and workers");
            held
        });
        inside.join().expect("everything is as it should be")
    });
    eprintln!("this kernel holds {held:?} of it");
    // The rest of this process is as free as before.
    assert_eq!(fs::read(other.join("secret")).expect("readable"), b"a secret");
    assert!(Command::new("/bin/true").status().is_ok_and(|status| status.success()));
}
