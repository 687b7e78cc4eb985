//! Names in a directory of the test's own.

use std::{
    fs::{self, File, Permissions},
    os::unix::{
        fs::{PermissionsExt, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Uid, geteuid},
    thread::set_thread_uid,
};
use tempfile::TempDir;

use super::{
    Guest, Process, Registered, directories_by, directory::Directory, find::guests_in, register::serve_in,
};
use crate::{
    api::logger::Logger,
    socket::{MAX_PATH, SocketMode},
    vm::config::LoggerConfig,
};

struct Host {
    directory: TempDir,
    registry: PathBuf,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = directory.path().join("aerostat");
        Self { directory, registry }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A guest, whose socket is at this path, or at its name.
    fn serve(&self, id: &str, socket: Option<&Path>) -> Registered {
        serve_in(Directory::make(&self.registry), id, socket, SocketMode::OWNER).unwrap()
    }

    /// The same, with what the log says of it.
    fn serve_and_log(&self, id: &str, socket: Option<&Path>) -> (Registered, String) {
        let (log, logger) = (self.path("log"), Logger::new("vm7"));
        logger.configure(&LoggerConfig { log_path: Some(log.clone()), ..LoggerConfig::default() }).unwrap();
        let serve = || {
            let directory = Directory::first_of(std::slice::from_ref(&self.registry));
            serve_in(directory, id, socket, SocketMode::OWNER).unwrap()
        };
        let served = tracing::subscriber::with_default(logger.subscriber(), serve);
        (served, fs::read_to_string(log).unwrap())
    }

    fn guests(&self) -> Vec<Guest> {
        guests_in(std::slice::from_ref(&self.registry)).unwrap()
    }

    fn ids(&self) -> Vec<String> {
        self.guests().into_iter().map(|guest| guest.id).collect()
    }

    /// All that is in the directory, whether it is a name or not.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.registry).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_environment_says_where_guests_are() {
    let directories = |variables: &[(&str, &str)]| {
        let of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, path)| path.into());
        let paths = directories_by(of).map_err(|error| error.to_string())?;
        Ok::<_, String>(
            paths.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
        )
    };
    assert_eq!(directories(&[]).unwrap(), "/run/aerostat");
    let user = ("XDG_RUNTIME_DIR", "/run/user/7");
    assert_eq!(directories(&[user]).unwrap(), "/run/aerostat /run/user/7/aerostat");
    assert_eq!(directories(&[user, ("AEROSTAT_RUNTIME_DIR", "/r")]).unwrap(), "/r");
    // As if they were not set.
    let odd = [("XDG_RUNTIME_DIR", "run"), ("AEROSTAT_RUNTIME_DIR", "")];
    assert_eq!(directories(&odd).unwrap(), "/run/aerostat");
    assert_eq!(
        directories(&[user, ("AEROSTAT_RUNTIME_DIR", "run")]).unwrap_err(),
        "AEROSTAT_RUNTIME_DIR is run, but has to be an absolute path"
    );
}

#[test]
fn a_guest_is_found_while_it_is_served_whoever_chose_its_socket() {
    let host = Host::new();
    let elsewhere = host.path("vm.sock");
    assert_eq!(host.guests(), []);
    let (web, db) = (host.serve("web", None), host.serve("db", Some(&elsewhere)));
    let me = i32::try_from(std::process::id()).unwrap();
    let guest = |id: &str| Guest {
        id: id.to_owned(),
        socket: host.registry.join(format!("{id}.sock")),
        user: geteuid().as_raw(),
        pid: Some(me),
    };
    assert_eq!(host.guests(), [guest("db"), guest("web")]);
    assert_eq!(fs::read_link(host.registry.join("db.sock")).unwrap(), fs::canonicalize(&elsewhere).unwrap());
    assert_eq!((mode(&host.registry), mode(&host.registry.join("web.sock"))), (0o700, 0o600));
    drop(db);
    assert_eq!(host.files(), ["web.sock"]);
    drop(web);
    assert_eq!((host.guests(), host.files()), (vec![], vec![]));
    assert!(!elsewhere.exists());
}

#[test]
fn a_second_guest_of_an_id_starts_and_has_its_process_in_its_name() {
    let host = Host::new();
    let (first, second) = (host.serve("web", None), host.serve("web", Some(&host.path("vm.sock"))));
    let with_process = format!("web.{}", std::process::id());
    assert_eq!(host.ids(), ["web", &with_process]);
    // A third one of the same process cannot be, and is served all the same.
    let third = host.serve("web", Some(&host.path("other.sock")));
    assert!(third.socket.is_some() && third.name.is_none());
    drop(first);
    assert_eq!(host.ids(), [with_process]);
    drop(second);
    assert_eq!(host.files(), Vec::<String>::new());
}

#[test]
fn names_of_monitors_that_crashed_vanish() {
    let host = Host::new();
    let (web, db) = (host.serve("web", None), host.serve("db", Some(&host.path("vm.sock"))));
    // A crash leaves the files, and nobody who listens.
    let listeners = [web, db].map(|crashed| {
        let (listener, file) = crashed.socket.unwrap().into_parts();
        std::mem::forget((file, crashed.name));
        listener
    });
    assert_eq!(host.ids(), ["db", "web"]);
    drop(listeners);
    symlink("/nowhere", host.registry.join("gone.sock")).unwrap();
    assert_eq!(host.files(), ["db.sock", "gone.sock", "web.sock"]);
    assert_eq!((host.ids(), host.files()), (vec![], vec![]));
}

#[test]
fn a_start_takes_the_names_of_those_that_crashed() {
    let host = Host::new();
    let (web, db) = (host.serve("web", None), host.serve("db", Some(&host.path("vm.sock"))));
    for crashed in [web, db] {
        let (listener, file) = crashed.socket.unwrap().into_parts();
        std::mem::forget((file, crashed.name));
        drop(listener);
    }
    // The same id, and the same socket under another id.
    let _web = host.serve("web", None);
    let _other = host.serve("other", Some(&host.path("vm.sock")));
    assert_eq!((host.ids(), host.files().len()), (vec!["other".to_owned(), "web".to_owned()], 2));
}

#[test]
fn a_socket_that_the_operator_put_there_is_its_own_name() {
    let host = Host::new();
    drop(host.serve("first", None));
    let served = host.serve("anonymous-instance", Some(&host.registry.join("web.sock")));
    assert!(served.name.is_none());
    assert_eq!(host.ids(), ["web"]);
}

/// A name that root made, behind which another user listens by now, who took the socket's path over.
#[test]
fn a_socket_that_another_user_took_over_is_not_the_guest() {
    if !geteuid().is_root() {
        return;
    }
    let host = Host::new();
    let _taken = host.serve("web", Some(&host.path("vm.sock")));
    assert_eq!(host.ids(), ["web"]);
    lchown(host.registry.join("web.sock"), Some(1), None).unwrap();
    assert_eq!((host.ids(), host.files()), (vec![], vec!["web.sock".to_owned()]));
}

/// Somebody listens at a path as this user, and does nothing else.
fn listen_as(user: u32, path: &Path) -> UnixListener {
    thread::scope(|scope| {
        // The user of this thread alone is another, in a group that may write the directory.
        let listening = scope.spawn(|| {
            set_thread_uid(Uid::from_raw(user)).unwrap();
            UnixListener::bind(path).unwrap()
        });
        listening.join().unwrap()
    })
}

/// A directory that root has opened for a group.
#[test]
fn root_does_not_take_a_socket_of_another_user_for_a_guest() {
    if !geteuid().is_root() {
        return;
    }
    let host = Host::new();
    let _web = host.serve("web", None);
    fs::set_permissions(host.directory.path(), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&host.registry, Permissions::from_mode(0o770)).unwrap();
    let evil = host.registry.join("evil.sock");
    let listener = listen_as(1, &evil);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(host.ids(), ["web"]);
    assert!(listener.accept().is_err(), "nobody has spoken to it");
    // Root has made the name its own, not the listener.
    lchown(&evil, Some(0), None).unwrap();
    assert_eq!(host.ids(), ["web"]);
}

#[test]
fn a_process_that_acts_for_another_user_than_the_listener_is_not_the_guests() {
    if !geteuid().is_root() {
        return;
    }
    let host = Host::new();
    fs::set_permissions(host.directory.path(), Permissions::from_mode(0o770)).unwrap();
    let socket = host.path("socket");
    let ours = UnixListener::bind(&socket).unwrap();
    assert!(Process::behind(&socket, Some(0)).unwrap().is_some());
    assert!(Process::behind(&socket, Some(1)).is_err());
    drop(ours);
    fs::remove_file(&socket).unwrap();
    let _theirs = listen_as(1, &socket);
    for user in [None, Some(1), Some(0)] {
        assert!(Process::behind(&socket, user).is_err(), "{user:?}");
    }
}

/// A directory whose names leave as much room as this for an id.
fn with_room_for(id: &str) -> Host {
    let mut host = Host::new();
    let used = host.path("").as_os_str().len() + "/.sock".len() + id.len();
    host.registry = host.path(&"d".repeat(MAX_PATH - used));
    fs::create_dir(&host.registry).unwrap();
    host
}

#[test]
fn a_name_that_nobody_could_connect_to_is_not_given() {
    let host = with_room_for("web");
    let _web = host.serve("web", None);
    assert_eq!(host.ids(), ["web"]);
    let here = host.registry.display();
    let why = format!("its name in {here} would have 108 bytes, and the path of a socket has at most 107");
    let (webs, said) = host.serve_and_log("webs", Some(&host.path("vm.sock")));
    assert!(webs.socket.is_some() && webs.name.is_none());
    assert!(
        said.contains(&format!(
            "Neither aerostat list nor --id finds this guest, but --api-sock does: {why}"
        )),
        "{said}"
    );
    let (webs, said) = host.serve_and_log("webs", None);
    assert!(webs.socket.is_none());
    assert!(
        said.contains(&format!("The guest has no API until --api-sock names a socket for it: {why}")),
        "{said}"
    );
    // A socket that the operator puts there by a shorter path.
    symlink(&host.registry, host.path("short")).unwrap();
    let (_webs, said) = host.serve_and_log("x", Some(&host.path("short/webs.sock")));
    assert!(said.matches(&why).count() == 3, "{said}");
    assert_eq!(host.files(), ["web.sock", "webs.sock"]);
}

#[test]
fn why_a_guest_has_no_name_is_said_with_the_directory() {
    let mut host = Host::new();
    host.registry = host.path("no/where");
    let (_, said) = host.serve_and_log("web", Some(&host.path("vm.sock")));
    let here = host.registry.display();
    let why = format!("its name has no directory ({here}: No such file or directory (os error 2))");
    assert!(said.contains(&why), "{said}");
    host.registry = host.path("registry");
    let _first = host.serve("web", None);
    let _second = host.serve("web", Some(&host.path("second.sock")));
    let (_, said) = host.serve_and_log("web", Some(&host.path("third.sock")));
    let (here, pid) = (host.registry.display(), std::process::id());
    assert!(said.contains(&format!("the names web and web.{pid} in {here} are taken")), "{said}");
}

#[test]
fn what_is_no_name_is_left_alone() {
    let host = Host::new();
    let _web = host.serve("web", None);
    fs::write(host.registry.join("precious.sock"), "").unwrap();
    fs::write(host.registry.join("notes"), "").unwrap();
    for odd in ["a b", "\u{1b}[2J", "\u{e4}", ""] {
        drop(UnixListener::bind(host.registry.join(format!("{odd}.sock"))).unwrap());
    }
    assert_eq!((host.ids(), host.files().len()), (vec!["web".to_owned()], 7));
    // Its id is taken by a file that is nobody's.
    let precious = host.serve("precious", None);
    assert_eq!(host.ids(), [format!("precious.{}", std::process::id()), "web".to_owned()]);
    drop(precious);
}

#[test]
fn a_guest_that_takes_no_more_connections_is_found_and_not_waited_for() {
    let host = Host::new();
    let served = host.serve("web", None);
    let full: Vec<_> =
        std::iter::from_fn(|| crate::socket::knock(&host.registry.join("web.sock")).ok()).collect();
    assert!(!full.is_empty());
    assert_eq!(host.guests()[0].pid, None);
    assert_eq!(host.serve("web", None).socket.map(|_| ()), Some(()), "its name is not taken from it");
    assert_eq!(host.ids(), ["web"]);
    drop((served, full));
}

#[test]
fn a_directory_that_others_can_write_is_not_used() {
    let host = Host::new();
    fs::create_dir(&host.registry).unwrap();
    fs::set_permissions(&host.registry, Permissions::from_mode(0o777)).unwrap();
    let served = host.serve("web", Some(&host.path("vm.sock")));
    assert!(served.socket.is_some() && served.name.is_none());
    assert!(host.serve("web", None).socket.is_none());
    assert_eq!(host.files(), Vec::<String>::new());
    // Nor is a guest looked for there: it may be anybody's.
    let _other = UnixListener::bind(host.registry.join("evil.sock")).unwrap();
    assert_eq!(guests_in(std::slice::from_ref(&host.registry)).unwrap(), []);
    // The next choice is.
    let (next, choices) = (host.path("next"), [host.registry.clone(), host.path("next")]);
    let _served = serve_in(Directory::first_of(&choices), "web", None, SocketMode::OWNER).unwrap();
    assert!(next.join("web.sock").exists());
    assert_eq!(guests_in(&choices).unwrap().len(), 1);
}

#[test]
fn who_holds_the_lock_for_ever_does_not_hold_a_start_up() {
    let host = Host::new();
    fs::create_dir(&host.registry).unwrap();
    let lock = File::open(&host.registry).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let served = host.serve("web", Some(&host.path("vm.sock")));
    assert!(served.socket.is_some() && served.name.is_none());
}

/// Guests that start at once over one stale name, while others look: each has a name of its own in the end, or none.
#[test]
fn of_guests_that_start_at_once_one_has_the_name() {
    for _ in 0..20 {
        let host = Host::new();
        drop(host.serve("first", None));
        symlink("/nowhere", host.registry.join("web.sock")).unwrap();
        let barrier = Barrier::new(6);
        let served: Vec<_> = thread::scope(|scope| {
            let start = |number: usize| {
                let (host, barrier) = (&host, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    host.serve("web", Some(&host.path(&number.to_string())))
                })
            };
            let starting: Vec<_> = (0..4).map(start).collect();
            for _ in 0..2 {
                scope.spawn(|| {
                    barrier.wait();
                    host.guests();
                });
            }
            starting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(served.iter().filter(|served| served.name.is_some()).count(), 2);
        assert_eq!(host.ids(), ["web".to_owned(), format!("web.{}", std::process::id())]);
    }
}
