//! A guest as it is to be, and the command that starts it under each monitor.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kernels::Kernel;
use crate::{initramfs, kvm_host, paths};

/// Who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Our monitor.
    Aerostat,
    /// QEMU's PC: PCI devices.
    QemuPc,
    /// QEMU's microvm: virtio-mmio devices announced by ACPI.
    QemuMicrovm,
}

impl Subject {
    /// Name in tables and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Subject::Aerostat => "aerostat",
            Subject::QemuPc => "qemu-pc",
            Subject::QemuMicrovm => "qemu-microvm",
        }
    }

    /// The subject that scenarios use: `AEROSTAT_SUBJECT`, or Aerostat. A scenario that fails with every
    /// subject is probably wrong itself.
    #[must_use]
    pub fn from_environment() -> Self {
        let name = std::env::var("AEROSTAT_SUBJECT").unwrap_or_default();
        [Subject::QemuPc, Subject::QemuMicrovm]
            .into_iter()
            .find(|subject| subject.name() == name)
            .unwrap_or(Subject::Aerostat)
    }
}

/// Which file of a kernel is booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Image {
    /// As Debian ships it.
    #[default]
    BzImage,
    /// The ELF inside, by its PVH note.
    Elf,
}

/// A raw disk image.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may not write.
    pub read_only: bool,
}

/// How the balloon starts out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balloon {
    /// First target in MiB.
    pub mib: u64,
    /// Whether a guest short of memory takes from the balloon before it kills.
    pub deflate_on_oom: bool,
    /// Seconds between statistics; 0 for none.
    pub statistics_s: u16,
    /// Free page reporting.
    pub reporting: bool,
    /// Free page hinting (Aerostat only).
    pub hinting: bool,
}

/// A guest to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Who runs it.
    pub subject: Subject,
    /// What it boots.
    pub kernel: Kernel,
    /// In which form.
    pub image: Image,
    /// Its initial RAM disk, where it is not the agent's.
    pub initrd: Option<PathBuf>,
    /// RAM.
    pub memory_mib: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Disks, in the order in which the guest names them vda, vdb, ….
    pub disks: Vec<Disk>,
    /// TAP interfaces of the host, one network device for each.
    pub taps: Vec<String>,
    /// The balloon.
    pub balloon: Balloon,
    /// More of the kernel's command line.
    pub append: String,
    /// More arguments for the monitor.
    pub arguments: Vec<String>,
    /// When this file is there, the monitor has no memory but the reserve, and what is released later is taken
    /// by others, too (Aerostat only).
    pub occupied_when: Option<PathBuf>,
    /// Words before the monitor's command: who starts it, and how.
    pub under: Vec<String>,
}

/// Environment variable of `aerostat-occupied`: the file that it waits for.
pub const OCCUPIED_WHEN: &str = "AEROSTAT_OCCUPIED_WHEN";

/// Setters that give the spec back, for scenarios in plain lines.
#[allow(missing_docs, reason = "they are named after the fields that they set")]
impl Spec {
    /// 512 MiB, one vCPU, balloon with statistics every second, no disks.
    #[must_use]
    pub fn new(subject: Subject, kernel: Kernel) -> Self {
        Self {
            subject,
            kernel,
            image: Image::BzImage,
            initrd: None,
            memory_mib: 512,
            cpus: 1,
            disks: Vec::new(),
            taps: Vec::new(),
            balloon: Balloon { statistics_s: 1, ..Balloon::default() },
            append: String::new(),
            arguments: Vec::new(),
            occupied_when: None,
            under: Vec::new(),
        }
    }

    #[must_use]
    pub fn image(mut self, image: Image) -> Self {
        self.image = image;
        self
    }

    #[must_use]
    pub fn initrd(mut self, path: &Path) -> Self {
        self.initrd = Some(path.to_path_buf());
        self
    }

    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_mib = mib;
        self
    }

    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    #[must_use]
    pub fn disk(mut self, path: &Path) -> Self {
        self.disks.push(Disk { path: path.to_path_buf(), read_only: false });
        self
    }

    #[must_use]
    pub fn read_only_disk(mut self, path: &Path) -> Self {
        self.disks.push(Disk { path: path.to_path_buf(), read_only: true });
        self
    }

    #[must_use]
    pub fn tap(mut self, name: &str) -> Self {
        self.taps.push(name.to_owned());
        self
    }

    #[must_use]
    pub fn balloon(mut self, balloon: Balloon) -> Self {
        self.balloon = balloon;
        self
    }

    #[must_use]
    pub fn append(mut self, words: &str) -> Self {
        self.append = format!("{} {words}", self.append).trim_start().to_owned();
        self
    }

    #[must_use]
    pub fn occupied_when(mut self, file: &Path) -> Self {
        self.occupied_when = Some(file.to_path_buf());
        self
    }

    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    #[must_use]
    pub fn under(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.under.extend(words.into_iter().map(Into::into));
        self
    }
}

impl Spec {
    /// The command that starts the guest, controlled through `socket`.
    ///
    /// # Errors
    /// The initramfs cannot be built, or the monitor has no such device.
    pub fn command(&self, socket: &Path) -> anyhow::Result<Command> {
        let initramfs = match &self.initrd {
            Some(path) => path.clone(),
            None => initramfs::ready(self.kernel)?,
        };
        let kernel = match self.image {
            Image::BzImage => self.kernel.vmlinuz(),
            Image::Elf => self.kernel.vmlinux(),
        };
        // A guest that panics ends at once, and what it says before the agent is up goes to the transcript.
        let append = format!("console=ttyS0 panic=-1 loglevel=4 {}", self.append);
        let mut command = match self.subject {
            Subject::Aerostat => self.aerostat(socket),
            Subject::QemuPc | Subject::QemuMicrovm => self.qemu(socket),
        };
        let (kernel_flag, initrd_flag, append_flag) = match self.subject {
            Subject::Aerostat => ("--kernel", "--initrd", "--append"),
            Subject::QemuPc | Subject::QemuMicrovm => ("-kernel", "-initrd", "-append"),
        };
        command
            .arg(kernel_flag)
            .arg(kernel)
            .arg(initrd_flag)
            .arg(initramfs)
            .args([append_flag, append.trim_end()]);
        command.args(&self.arguments);
        Ok(command)
    }

    /// The monitor's program, behind the words that start it.
    fn program(&self, path: &Path) -> Command {
        let mut words = self.under.iter();
        let Some(first) = words.next() else { return Command::new(path) };
        let mut command = Command::new(first);
        command.args(words).arg(path);
        command
    }

    fn aerostat(&self, socket: &Path) -> Command {
        let mut command = match &self.occupied_when {
            None => self.program(&paths::aerostat()),
            Some(file) => {
                let mut command = self.program(&paths::aerostat_occupied());
                command.env(OCCUPIED_WHEN, file);
                command
            }
        };
        command.arg("run").args([
            "--memory",
            &format!("{}M", self.memory_mib),
            "--cpus",
            &self.cpus.to_string(),
        ]);
        command.arg("--api-sock").arg(socket);
        for disk in &self.disks {
            let mode = if disk.read_only { ",ro" } else { "" };
            command.arg("--disk").arg(format!("{}{mode}", disk.path.display()));
        }
        for tap in &self.taps {
            command.args(["--net", &format!("tap={tap}")]);
        }
        let balloon = self.balloon;
        command.args(["--balloon", &balloon.mib.to_string()]);
        if balloon.statistics_s > 0 {
            command.args(["--balloon-stats", &balloon.statistics_s.to_string()]);
        }
        let switches = [
            (balloon.deflate_on_oom, "--balloon-deflate-on-oom"),
            (balloon.reporting, "--balloon-reporting"),
            (balloon.hinting, "--balloon-hinting"),
        ];
        command.args(switches.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag));
        command
    }

    fn qemu(&self, socket: &Path) -> Command {
        let kvm = kvm_host::has_kvm();
        let accelerator = if kvm { "kvm" } else { "tcg" };
        let (machine, bus) = match self.subject {
            Subject::QemuMicrovm => ("microvm", "device"),
            Subject::Aerostat | Subject::QemuPc => ("pc", "pci"),
        };
        let on = |switch: bool| if switch { "on" } else { "off" };
        let mut command = self.program(Path::new("qemu-system-x86_64"));
        command
            .args(["-name", "guest,debug-threads=on", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args([
                "-display",
                "none",
                "-serial",
                "stdio",
                "-machine",
                &format!("{machine},accel={accelerator}"),
            ])
            .args(["-cpu", if kvm { "host" } else { "max" }])
            .args(["-m", &format!("{}M", self.memory_mib), "-smp", &self.cpus.to_string()])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
            .args(["-device", &format!("virtio-rng-{bus}")])
            .arg("-device")
            .arg(format!(
                "virtio-balloon-{bus},id=balloon,deflate-on-oom={},free-page-reporting={}",
                on(self.balloon.deflate_on_oom),
                on(self.balloon.reporting)
            ));
        // QEMU's microvm gives the slots out from the last to the first device.
        let mut disks: Vec<(usize, &Disk)> = self.disks.iter().enumerate().collect();
        if self.subject == Subject::QemuMicrovm {
            disks.reverse();
        }
        for (index, disk) in disks {
            let path = disk.path.display();
            let mode = on(disk.read_only);
            command
                .args(["-drive", &format!("if=none,id=disk{index},format=raw,file={path},read-only={mode}")])
                .args(["-device", &format!("virtio-blk-{bus},drive=disk{index}")]);
        }
        // Without vhost: the host's kernel is not to do a monitor's work for it.
        for (index, tap) in self.taps.iter().enumerate() {
            command
                .args([
                    "-netdev",
                    &format!("tap,id=net{index},ifname={tap},script=no,downscript=no,vhost=off"),
                ])
                .args(["-device", &format!("virtio-net-{bus},netdev=net{index}")]);
        }
        command
    }
}
