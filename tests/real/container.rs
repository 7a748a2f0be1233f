//! The image of the package's Containerfile, built with buildah and run with runc: no daemon, and nothing is left behind.

use crate::support;

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::http::{Backend, response};
use support::podop::{run, wait_until};
use support::postfix::is_root;
use support::roots::{package, packages};
use tempfile::TempDir;

/// What the Containerfile runs as.
const USER: u32 = 65_532;

#[test]
#[ignore = "needs Debian's buildah and runc; tests/run installs them"]
fn the_container_answers_and_its_health_check_sees_its_end() {
    let image = match Image::build() {
        Ok(image) => image,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let backend = Backend::start(|request| response(200, &format!("\"v {}\"", request.target)));
    // In place of the CMD of the image; the ENTRYPOINT stays.
    let url = backend.url("/alias/§");
    let command = ["--name", "alias", "--type", "url", "--param", &url];
    let mut container = match image.start(&command) {
        Ok(container) => container,
        Err(reason) => return println!("skipped: {reason}"),
    };
    assert!(image.config["User"] == format!("{USER}:{USER}"), "{}", image.config);
    assert_eq!(image.health(Some(&container)), (Some(0), "ok\n".to_owned()));
    assert_eq!(image.health(None), (Some(0), "ok\n".to_owned()), "from another container, through the volume");
    let output = run(&["query", image.socket().to_str().unwrap(), "alias", "a"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "v /alias/a\n");
    // The mail server runs as another user.
    let permissions = fs::metadata(image.socket()).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o666);
    let (status, mounts) = container.process();
    let is_line = |name: &str, value: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(line.split_whitespace().next(), Some(value), "{name}");
    };
    is_line("Uid:", &USER.to_string());
    is_line("CapEff:", "0000000000000000");
    assert!(mounts.lines().any(|line| line.contains(" / ro,")), "{mounts}");
    // A crash leaves the socket, to which no process listens then.
    container.kill("KILL");
    assert!(image.socket().exists());
    assert_eq!(image.health(None), (Some(75), String::new()));
    // The next start replaces it, and a regular end removes it.
    drop(container); // has the same name
    let mut container = image.start(&command).unwrap();
    assert_eq!(image.health(Some(&container)), (Some(0), "ok\n".to_owned()));
    assert_eq!(container.kill("TERM"), Some(0));
    assert!(!image.socket().exists());
    assert_eq!(image.health(None), (Some(75), String::new()));
}

/// An image with its file system, in a storage of its own, and a volume for the socket.
struct Image {
    dir: TempDir,
    /// The configuration, as Docker reads it.
    config: Value,
    root: String,
    _cache: Cache,
}

impl Image {
    /// The reason if it cannot be built here.
    fn build() -> Result<Image, String> {
        if !is_root() {
            return Err("buildah and runc are run as root".to_owned());
        }
        for program in ["buildah", "runc"] {
            Command::new(program).arg("--version").output().map_err(|error| format!("{program}: {error}"))?;
        }
        let packages = packages().ok_or("there is no static program")?;
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("context");
        fs::create_dir(&context).unwrap();
        let archive = package(&packages, ".tar.gz");
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(archive).arg("-C").arg(&context).args([
            "--strip-components=3",
            "--wildcards",
            "*/usr/bin/podop",
        ]);
        assert!(tar.status().unwrap().success());
        for file in ["Containerfile", "health.json"] {
            fs::copy(format!("src/package/{file}"), context.join(file)).unwrap();
        }
        let cache = Cache::before_it_is_made();
        // HEALTHCHECK is an instruction of Docker's format only.
        let built = ["bud", "--isolation", "chroot", "--format", "docker", "--tag", "podop", context.to_str().unwrap()];
        let output = buildah(dir.path(), &built);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            assert!(is_forbidden(&message), "{message}");
            return Err(message);
        }
        let inspected = buildah(dir.path(), &["inspect", "--type", "image", "podop"]).stdout;
        let mut inspected: Value = serde_json::from_slice(&inspected).unwrap();
        let text = |output: Output| String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let container = text(buildah(dir.path(), &["from", "podop"]));
        let root = text(buildah(dir.path(), &["mount", &container]));
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        chown(&volume, Some(USER), Some(USER)).unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Ok(Image { dir, config: inspected["Docker"]["config"].take(), root, _cache: cache })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("volume/podop.sock")
    }

    /// Runs it with these arguments behind its entry point, and waits for the socket.
    fn start(&self, command: &[&str]) -> Result<Container<'_>, String> {
        let mut args = strings(&self.config["Entrypoint"]);
        args.extend(command.iter().map(|arg| (*arg).to_owned()));
        let mut container = self.container("podop", &args);
        let mut ended = false;
        wait_until(|| {
            ended = container.child.try_wait().unwrap().is_some();
            ended || run(&["query", self.socket().to_str().unwrap(), "health", "health"]).status.success()
        });
        let log = container.log();
        assert!(!ended || is_forbidden(&log), "{log}");
        if ended { Err(log) } else { Ok(container) }
    }

    /// The exit code and the output of the health check of the image, in a container that runs or in one of its own.
    fn health(&self, container: Option<&Container<'_>>) -> (Option<i32>, String) {
        let test = strings(&self.config["Healthcheck"]["Test"]);
        assert_eq!(test[0], "CMD");
        if let Some(container) = container {
            let output = runc(self.dir.path()).arg("exec").arg(&container.id).args(&test[1..]).output().unwrap();
            eprint!("{}", String::from_utf8_lossy(&output.stderr)); // shown if the test fails
            return (output.status.code(), String::from_utf8(output.stdout).unwrap());
        }
        let mut check = self.container("check", &test[1..]);
        let code = check.child.wait().unwrap().code();
        (code, fs::read_to_string(check.bundle.join("stdout")).unwrap())
    }

    /// Starts a container with a read-only root, as the user of the image, without any capability. It shares the network
    /// with the test.
    fn container(&self, name: &str, args: &[String]) -> Container<'_> {
        let bundle = self.dir.path().join(name);
        fs::create_dir_all(&bundle).unwrap();
        let volume = self.dir.path().join("volume");
        let user: Vec<u32> = self.config["User"].as_str().unwrap().split(':').map(|id| id.parse().unwrap()).collect();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user[0], "gid": user[1]}, "args": args, "env": self.config["Env"], "cwd": "/",
                "noNewPrivileges": true, "capabilities": {}
            },
            "root": {"path": self.root, "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/run/podop", "type": "bind", "source": volume, "options": ["bind", "rw"]}
            ],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}]}
        });
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        // The name of a cgroup too, which all programs on the machine share.
        let id = format!("podop-{name}-{}", std::process::id());
        let file = |name: &str| fs::File::create(bundle.join(name)).unwrap();
        let mut command = runc(self.dir.path());
        command.args(["run", "--bundle"]).arg(&bundle).arg(&id);
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        Container { child: command.spawn().unwrap(), id, bundle, image: self }
    }
}

/// A container, which is removed when this is dropped.
struct Container<'a> {
    child: Child,
    id: String,
    bundle: PathBuf,
    image: &'a Image,
}

impl Container<'_> {
    fn runc(&self, command: &[&str]) -> Output {
        runc(self.image.dir.path()).args(command).arg(&self.id).output().unwrap()
    }

    /// Sends a signal to the program and waits for its end: the exit code.
    fn kill(&mut self, signal: &str) -> Option<i32> {
        let sent = runc(self.image.dir.path()).args(["kill", &self.id, signal]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }

    /// The status and the mounts of the program, as the kernel has them.
    fn process(&self) -> (String, String) {
        let state: Value = serde_json::from_slice(&self.runc(&["state"]).stdout).unwrap();
        let file = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", state["pid"])).unwrap();
        (file("status"), file("mountinfo"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.bundle.join("stderr")).unwrap()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force"]);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the container\n{}", self.log());
        }
    }
}

/// What buildah writes outside of its storage, with no option to have it elsewhere: removed when this is dropped, unless
/// it was there before.
struct Cache(Vec<&'static str>);

impl Cache {
    fn before_it_is_made() -> Cache {
        let paths = ["/var/lib/containers/cache", "/var/lib/containers"];
        Cache(paths.into_iter().filter(|path| !Path::new(path).exists()).collect())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(Path::new(path).join("blob-info-cache-v1.boltdb"));
            let _ = fs::remove_dir(path);
        }
    }
}

/// buildah with a storage of its own. The driver needs no support by the kernel.
fn buildah(dir: &Path, args: &[&str]) -> Output {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut buildah = Command::new("buildah");
    buildah.args(["--root", &path("storage"), "--runroot", &path("run"), "--storage-driver", "vfs"]).args(args);
    buildah.env("TMPDIR", dir).output().unwrap()
}

fn runc(dir: &Path) -> Command {
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(dir.join("state"));
    runc
}

/// Whether a message of buildah or runc, and not of the program, is about what a machine does not permit, such as
/// namespaces inside of a container.
fn is_forbidden(message: &str) -> bool {
    let reasons = ["operation not permitted", "permission denied", "cgroup", "read-only file system"];
    let is_own = message.contains("level=error") || message.contains("Error: ");
    is_own && !message.contains("exec: ") && reasons.iter().any(|reason| message.to_lowercase().contains(reason))
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}
