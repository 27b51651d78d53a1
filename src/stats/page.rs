//! Making, replacing and removing this process's page.
//!
//! The page is a file of `/dev/shm/netacc-UID/`, a directory of the user's own with mode 0700. Only
//! raw system calls are made: this runs inside the application.

use core::ffi::CStr;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::{Relaxed, Release};

use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::mm::{self, Advice, MapFlags, ProtFlags};

use super::layout::{MAGIC, Page, store_text};
use super::proc_stat;
use crate::control::wire;

/// Size of the page in memory and as a file, bytes.
pub(super) const SIZE: usize = size_of::<Page>();
/// What is given memory at once: everything before the connections' slots.
const HEAD: usize = core::mem::offset_of!(Page, conns);
/// Connections' slots are given memory in steps of about this many bytes.
const STEP: usize = 16 * 1024;

/// A page that was made.
pub(super) struct Made {
    /// Where it is mapped; never unmapped.
    pub(super) page: NonNull<Page>,
    /// Bytes from its start that surely have memory behind them.
    pub(super) backed: usize,
    /// Whether it is a file that others can read, or only this process's memory.
    pub(super) shared: bool,
}

/// A descriptor that is closed by a raw system call: closing must not meet the exported `close`.
struct Fd(Option<OwnedFd>);

impl Fd {
    fn get(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Some(fd) => fd.as_fd(),
            None => fs::CWD,
        }
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            // SAFETY: the descriptor is owned here and given up by `into_raw_fd`.
            unsafe { io::close(fd.into_raw_fd()) };
        }
    }
}

/// Makes the page of this process: a file below `root` if that can be, else private memory.
/// `None` only when there is no memory left at all.
pub(super) fn make(root: &CStr) -> Option<Made> {
    let made = make_file(root).or_else(|_| make_private()).ok()?;
    // SAFETY: just mapped, readable and writable, and zero bytes are a valid `Page`.
    fill_header(unsafe { made.page.as_ref() });
    Some(made)
}

/// Removes the page's file. Whether it was there does not matter.
pub(super) fn remove(root: &CStr) {
    if let Ok(dir) = open_dir(root) {
        let _ = fs::unlinkat(dir.get(), Decimal::of(pid()).name(), AtFlags::empty());
    }
}

/// Puts private empty memory where the child of a fork still sees its parent's page, so that
/// references kept across the fork stay valid but no longer write to the parent's counters.
///
/// # Safety
/// `page` must be the mapping of a [`Made`] page, and the process have no other thread.
pub(super) unsafe fn detach(page: NonNull<Page>) {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: replaces exactly our own mapping, by memory that is a valid `Page` as well. If the
    // kernel refuses, the old mapping stays, which is harmless.
    let _ = unsafe {
        mm::mmap_anonymous(
            page.as_ptr().cast(),
            SIZE,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )
    };
}

/// Gives memory to the page's bytes from `from` up to `to` or somewhat further; returns how far.
/// `None` if there is none, so that those bytes must not be touched.
///
/// A hole in a file of a full tmpfs would kill the process (SIGBUS) when touched; this asks first.
pub(super) fn back(page: NonNull<Page>, from: usize, to: usize) -> Option<usize> {
    let unit = page_size();
    let start = from / unit * unit;
    let end = (to.max(from + STEP)).next_multiple_of(unit);
    // The mapping is whole pages, so rounding up the last one stays inside it.
    let end = end.min(SIZE.next_multiple_of(unit));
    // SAFETY: inside our own mapping; populating changes no byte of it.
    let done = unsafe {
        let address = page.as_ptr().cast::<u8>().add(start);
        mm::madvise(address.cast(), end - start, Advice::LinuxPopulateWrite)
    };
    done.ok().map(|()| end)
}

fn make_file(root: &CStr) -> Result<Made, Errno> {
    let dir = open_dir(root)?;
    let name = Decimal::of(pid());
    // Whatever has this process's number is older: of a dead process, or of the program that this
    // process was before it called exec.
    let _ = fs::unlinkat(dir.get(), name.name(), AtFlags::empty());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = Fd(Some(fs::openat(
        dir.get(),
        name.name(),
        flags,
        Mode::RUSR | Mode::WUSR,
    )?));
    map_file(&file).inspect_err(|_| {
        let _ = fs::unlinkat(dir.get(), name.name(), AtFlags::empty());
    })
}

fn map_file(file: &Fd) -> Result<Made, Errno> {
    // Not what the umask left of it.
    fs::fchmod(file.get(), Mode::RUSR | Mode::WUSR)?;
    fs::ftruncate(file.get(), SIZE as u64)?;
    fs::fallocate(file.get(), FallocateFlags::empty(), 0, HEAD as u64)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe {
        mm::mmap(
            null_mut(),
            SIZE,
            protection,
            MapFlags::SHARED,
            file.get(),
            0,
        )
    }?;
    let page = NonNull::new(address.cast::<Page>()).ok_or(Errno::NOMEM)?;
    let backed = match back(page, HEAD, HEAD) {
        Some(backed) => backed,
        // Before Linux 5.14 memory cannot be asked for step by step: take all of it now.
        None => fs::fallocate(file.get(), FallocateFlags::empty(), 0, SIZE as u64)
            .map(|()| SIZE)
            .inspect_err(|_| {
                // SAFETY: the mapping was made above and nothing refers to it.
                let _ = unsafe { mm::munmap(address, SIZE) };
            })?,
    };
    Ok(Made {
        page,
        backed,
        shared: true,
    })
}

fn make_private() -> Result<Made, Errno> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { mm::mmap_anonymous(null_mut(), SIZE, protection, flags) }?;
    Ok(Made {
        page: NonNull::new(address.cast()).ok_or(Errno::NOMEM)?,
        backed: SIZE,
        shared: false,
    })
}

/// Opens this user's directory below `root`, making it if need be. Refuses one that somebody else
/// prepared: a symbolic link, another owner, or access for others.
fn open_dir(root: &CStr) -> Result<Fd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Fd(Some(fs::open(root, flags, Mode::empty())?));
    let uid = uid();
    let mut name = [0; 32];
    name[..DIR_PREFIX.len()].copy_from_slice(DIR_PREFIX.as_bytes());
    let digits = Decimal::of(uid);
    let digits = digits.name().to_bytes_with_nul();
    name[DIR_PREFIX.len()..][..digits.len()].copy_from_slice(digits);
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| Errno::INVAL)?;

    match fs::mkdirat(root.get(), name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = Fd(Some(fs::openat(root.get(), name, flags, Mode::empty())?));
    let stat = fs::fstat(dir.get())?;
    let private = Mode::from_raw_mode(stat.st_mode) == Mode::RWXU;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_dir && private && stat.st_uid == uid {
        Ok(dir)
    } else {
        Err(Errno::PERM)
    }
}

/// What the directory's name begins with; the user's number follows.
pub(super) const DIR_PREFIX: &str = "netacc-";

fn fill_header(page: &Page) {
    let header = &page.header;
    header.tell_layout();
    header.pid.store(pid(), Relaxed);
    header.uid.store(uid(), Relaxed);
    header.created_ns.store(now_ns(), Relaxed);
    store_text(&header.version, env!("CARGO_PKG_VERSION").as_bytes());
    let versions = [
        (&header.oldest_protocol, wire::OLDEST),
        (&header.newest_protocol, wire::VERSION),
    ];
    for (field, version) in versions {
        field.store(version.into(), Relaxed);
    }

    let mut line = [0; 1024];
    if let Some(stat) = read_own_stat(&mut line).and_then(proc_stat::parse) {
        header.start_time.store(stat.start_time, Relaxed);
        store_text(&header.comm, stat.comm);
    }
    if let Ok(stat) = fs::stat(c"/proc/self/ns/pid") {
        header.pid_namespace.store(stat.st_ino, Relaxed);
    }
    // Last: whoever sees the magic sees all the rest.
    header.magic.store(MAGIC, Release);
}

fn read_own_stat(line: &mut [u8]) -> Option<&[u8]> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = Fd(Some(
        fs::open(c"/proc/self/stat", flags, Mode::empty()).ok()?,
    ));
    let n = io::read(file.get(), &mut *line).ok()?;
    line.get(..n)
}

/// This process's number.
pub(super) fn pid() -> u32 {
    // SAFETY: no arguments, cannot fail. Asked anew each time, because a fork changes it.
    unsafe { libc::getpid() }.cast_unsigned()
}

fn uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

fn page_size() -> usize {
    // SAFETY: only reads a constant of the machine.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable; with this clock the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000) + now.tv_nsec as u64
}

/// A number as a C string, without allocation.
struct Decimal {
    digits: [u8; 11],
    start: usize,
}

impl Decimal {
    fn of(mut number: u32) -> Self {
        let mut digits = [0; 11];
        let mut start = 10;
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 || start == 0 {
                return Self { digits, start };
            }
        }
    }

    fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.digits[self.start..]).unwrap_or(c"0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::CONN_SLOTS;

    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    /// Makes a page below a new directory that `prepare` has put things into.
    fn make_in(prepare: impl FnOnce(&Path)) -> (tempfile::TempDir, Made) {
        let root = tempfile::tempdir().unwrap();
        prepare(&user_dir(root.path()));
        let name = CString::new(root.path().as_os_str().as_bytes()).unwrap();
        let made = make(&name).unwrap();
        (root, made)
    }

    fn user_dir(root: &Path) -> PathBuf {
        root.join(format!("{DIR_PREFIX}{}", uid()))
    }

    fn file_in(root: &Path) -> PathBuf {
        user_dir(root).join(pid().to_string())
    }

    #[test]
    fn made_replaced_and_removed() {
        let (root, made) = make_in(|dir| {
            std::fs::create_dir(dir).unwrap();
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).unwrap();
            std::fs::write(dir.join(pid().to_string()), "of an earlier program").unwrap();
        });
        assert!(made.shared && made.backed > HEAD);
        assert_eq!(
            std::fs::metadata(file_in(root.path())).unwrap().len(),
            SIZE as u64
        );
        let name = CString::new(root.path().as_os_str().as_bytes()).unwrap();
        remove(&name);
        assert!(!file_in(root.path()).exists());
        remove(&name);
    }

    #[test]
    fn memory_follows_the_slots_up_to_the_end() {
        let (_root, made) = make_in(|_| {});
        let mut backed = made.backed;
        while backed < SIZE {
            let next = back(made.page, backed, backed + 1).unwrap();
            assert!(next > backed);
            backed = next;
        }
        // SAFETY: mapped and never unmapped.
        let last = unsafe { &made.page.as_ref().conns[CONN_SLOTS - 1] };
        last.tx_bytes.store(1, Relaxed);
    }

    #[test]
    fn private_memory_where_no_file_can_be() {
        assert!(!make(c"/nonexistent").unwrap().shared);
        assert!(!make(c"/proc").unwrap().shared);
    }

    #[test]
    fn a_directory_that_others_prepared_is_not_used() {
        let elsewhere = tempfile::tempdir().unwrap();
        let (_root, made) = make_in(|dir| symlink(elsewhere.path(), dir).unwrap());
        assert!(!made.shared);
        assert_eq!(elsewhere.path().read_dir().unwrap().count(), 0);

        let (root, made) = make_in(|dir| {
            std::fs::create_dir(dir).unwrap();
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
        });
        assert!(!made.shared);
        assert!(!file_in(root.path()).exists());

        let (_root, made) = make_in(|dir| std::fs::write(dir, "").unwrap());
        assert!(!made.shared);
    }

    #[test]
    fn decimals() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            assert_eq!(
                Decimal::of(number).name().to_str(),
                Ok(&*number.to_string())
            );
        }
    }
}
