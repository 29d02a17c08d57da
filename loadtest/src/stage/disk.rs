//! A small disk for what the gateway keeps, and filling it to the last byte.
//!
//! The disk is a tmpfs that only this process and its children see: it is gone with them, however
//! they end. Mounting one is root's affair; without it there is no small disk, and what needs one
//! says so.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

/// Written at a time: what is left of a disk after it is less than a segment's header.
const PIECE: [u8; 4096] = [0; 4096];

/// From now on, what the calling thread and those it starts mount is seen by them alone. To be
/// called before the first thread is started.
pub fn isolate_mounts() -> io::Result<()> {
    // Its successor is unsafe because it can take other flags, which unshare descriptors.
    #[allow(deprecated, reason = "sound for this flag, and the successor is unsafe")]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// A disk of its own.
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Makes one of `bytes` at `directory`, which is made.
    pub fn mount(directory: &Path, bytes: u64) -> io::Result<SmallDisk> {
        std::fs::create_dir_all(directory)?;
        let options = CString::new(format!("size={bytes},mode=0700")).map_err(io::Error::other)?;
        mount("tmpfs", directory, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        Ok(SmallDisk { directory: directory.to_owned() })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes what room there is, until it is dropped. May be asked again: room comes free when the
    /// journal lets go of what was shipped.
    pub fn fill(&self) -> io::Result<Filler> {
        let path = self.directory.join("filler");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut filler = Filler { path, file };
        filler.top_up()?;
        Ok(filler)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a process that is being killed may still use it. It goes with this
        // process at the latest.
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.directory, flags).ok();
    }
}

/// A file that takes all the room there is; removed when dropped.
pub struct Filler {
    path: PathBuf,
    file: File,
}

impl Filler {
    /// Takes what has come free.
    pub fn top_up(&mut self) -> io::Result<()> {
        loop {
            match self.file.write(&PIECE) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // Without it the disk stays full, which the run will tell.
        drop(std::fs::remove_file(&self.path));
    }
}
