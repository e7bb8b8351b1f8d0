//! A pseudo-terminal, and programs that have it as their terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The terminal, as whoever sits before it has it.
pub struct Terminal {
    keyboard: File,
    path: String,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Opens a terminal that nobody uses yet.
    pub fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let path = ptsname(&master, Vec::new()).expect("ptsname");
        let path = path.into_string().expect("path");
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().expect("terminal");
        let screen = Arc::<Mutex<String>>::default();
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut space = [0; 4096];
            // The last process that closes the terminal makes the read fail.
            while let Ok(length @ 1..) = output.read(&mut space) {
                let text = String::from_utf8_lossy(&space[..length]);
                let mut screen = shown.lock().unwrap_or_else(PoisonError::into_inner);
                screen.push_str(&text);
            }
        });
        Self {
            keyboard,
            path,
            screen,
        }
    }

    /// Starts a program in a session of its own with this terminal.
    pub fn start(&self, command: &Command) -> Child {
        let side = || {
            let side = OpenOptions::new().read(true).write(true).open(&self.path);
            Stdio::from(side.expect("terminal"))
        };
        // Whoever runs the tests may ignore signals, as `nohup` does, and children inherit that.
        let mut started = Command::new("env");
        started.args(["--default-signal", "setsid", "--ctty"]);
        started.arg(command.get_program());
        started.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => started.env(name, value),
                None => started.env_remove(name),
            };
        }
        started.stdin(side()).stdout(side()).stderr(side());
        started.spawn().expect("setsid")
    }

    /// Types a text. `\x03` is Ctrl-C, `\x1a` is Ctrl-Z, and `\x1c` is Ctrl-\.
    pub fn press(&self, text: &str) {
        let mut keyboard = &self.keyboard;
        keyboard.write_all(text.as_bytes()).expect("terminal");
    }

    /// Returns everything that was shown so far.
    pub fn screen(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.clone()
    }

    /// Waits until a text was shown this often in all.
    pub async fn shows(&self, text: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.screen().matches(text).count() < times {
            let is_late = Instant::now() > deadline;
            assert!(
                !is_late,
                "not shown {times} times: {text}\n{}",
                self.screen()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Changes the width of the terminal.
    pub fn widen(&self, columns: u16) {
        let status = Command::new("stty")
            .args(["-F", &self.path, "columns", &columns.to_string()])
            .status();
        assert!(status.expect("stty").success());
    }
}
