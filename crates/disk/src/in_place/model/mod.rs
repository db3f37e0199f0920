//! A disk that loses power, tears writes and fails calls, under the real engine.
//!
//! What a file holds in memory (what reads see) and what is durable are told apart. A write is cut into pieces, each of
//! which reaches the disk or not; a sync makes all pieces of its file durable. After a failed sync the pieces stay visible
//! and no later sync writes them: that is what ext4, XFS and Btrfs do (ATC'20, "Can applications recover from fsync
//! failures?"). Names behave like data: each change of a name since the last sync of the folder may be lost by itself.

pub(crate) mod crash;
pub(crate) mod explore;
mod faults;
pub(crate) mod world;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::storage::{NAMES, Name, Storage};
pub(crate) use super::suite::Forms;
use crate::error::Result;
pub(crate) use faults::{Fault, FaultPlan, Lie, Planted};

/// Says whether bytes may be written to a file at an offset.
pub(crate) type Rule = Arc<dyn Fn(Name, &[u8], u64) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A crash may lose it, a sync makes it durable.
    Pending,
    /// A sync failed over it: a crash may lose it, and no sync helps.
    Forgotten,
    Durable,
}

#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fate: Fate,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    /// What is durable, but for the writes.
    pub(crate) base: Vec<u8>,
    /// In order, what came after.
    pub(crate) writes: Vec<Write>,
}

/// A change of one name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Set(Name, usize),
    /// A rename: the file gets the second name and the first goes, in one step, whichever file had them.
    Move(usize, Name, Name),
    Clear(Name),
}

/// What a power cut at this moment chooses from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moment {
    pub(crate) files: Vec<File>,
    pub(crate) names: [Option<usize>; NAMES],
    pub(crate) changes: Vec<(Change, Fate)>,
}

/// Contents of all files by name: a disk at rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Image {
    pub(crate) files: [Option<Vec<u8>>; NAMES],
}

#[derive(Default)]
struct State {
    moment: Moment,
    /// What reads see, by file.
    live: Vec<Vec<u8>>,
    names: [Option<usize>; NAMES],
    open: [Option<usize>; NAMES],
    calls: u64,
    fault: Option<FaultPlan>,
    /// The moments before each barrier, when they are wanted: between two barriers the last moment has all choices of
    /// the earlier ones.
    moments: Option<Vec<Moment>>,
    rule: Option<Rule>,
    lie: Option<Lie>,
    no_holes: bool,
}

pub(crate) struct ModelDisk {
    state: Mutex<State>,
    path: PathBuf,
}

impl ModelDisk {
    pub(crate) fn new(image: &Image, rule: Option<Rule>, record: bool) -> Self {
        let mut state = State { rule, moments: record.then(Vec::new), ..State::default() };
        for (index, bytes) in image.files.iter().enumerate() {
            let Some(bytes) = bytes else { continue };
            state.names[index] = Some(state.live.len());
            state.live.push(bytes.clone());
            state.moment.files.push(File { base: bytes.clone(), writes: Vec::new() });
        }
        state.moment.names = state.names;
        Self { state: Mutex::new(state), path: PathBuf::from("model") }
    }

    pub(crate) fn fail(&self, fault: Option<FaultPlan>) {
        let mut state = self.lock();
        (state.fault, state.calls) = (fault, 0);
    }

    /// Calls since the fault was set.
    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Closes all files, as the end of a process does; memory keeps what it has.
    pub(crate) fn reopen(&mut self, record: bool) {
        let mut state = self.lock();
        state.open = [None; NAMES];
        state.moments = record.then(Vec::new);
        drop(state);
        // A copy may not have come to it.
        let _ = self.open(Name::Flat);
    }

    /// The choices of a power cut now.
    pub(crate) fn now(&self) -> Moment {
        self.lock().moment.clone()
    }

    /// From here on the disk lies about one barrier, as if the job had left it out.
    pub(crate) fn lie(&self, lie: Option<Lie>) {
        self.lock().lie = lie;
    }

    /// From here on zeros count as data, as they do on a file system when they were written.
    pub(crate) fn show_no_holes(&self) {
        self.lock().no_holes = true;
    }

    /// The choices of a power cut before every barrier since the recording began, and now.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        let mut state = self.lock();
        let mut moments = state.moments.take().unwrap_or_default();
        moments.push(state.moment.clone());
        moments
    }

    /// What reads see, as long as the power stays.
    pub(crate) fn content(&self, name: Name) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names[name as usize].map(|file| state.live[file].clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no call panics")
    }

    /// Counts a call; whether it shall do half.
    fn call(&self, is_sync: bool) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.lock();
        let Some(plan) = state.fault else { return Ok((state, false)) };
        if matches!(plan.fault, Fault::Sync(_)) && !is_sync {
            return Ok((state, false));
        }
        let now = state.calls;
        state.calls += 1;
        if now < plan.at || (now > plan.at && !plan.forever) {
            return Ok((state, false));
        }
        match plan.fault {
            Fault::Error(errno) | Fault::Sync(errno) => {
                drop(state);
                Err(errno.into())
            }
            Fault::Short => Ok((state, true)),
        }
    }
}

impl State {
    fn file(&self, name: Name) -> io::Result<usize> {
        self.open[name as usize].ok_or_else(|| Errno::BADF.into())
    }

    fn barrier(&mut self) {
        if let Some(moments) = &mut self.moments {
            moments.push(self.moment.clone());
        }
    }

    fn write(&mut self, file: usize, offset: usize, bytes: &[u8]) {
        let live = &mut self.live[file];
        if live.len() < offset + bytes.len() {
            live.resize(offset + bytes.len(), 0);
        }
        live[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.moment.files[file].writes.push(Write { offset, bytes: bytes.to_vec(), fate: Fate::Pending });
    }
}

impl File {
    /// Folds what is durable for good into the base.
    fn fold(&mut self) {
        let kept = self.writes.iter().position(|write| write.fate != Fate::Durable);
        let durable = self.writes.drain(..kept.unwrap_or(self.writes.len()));
        for write in durable {
            put(&mut self.base, write.offset, &write.bytes);
        }
    }
}

/// Writes into a file image, which grows where needed.
pub(crate) fn put(base: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if base.len() < offset + bytes.len() {
        base.resize(offset + bytes.len(), 0);
    }
    base[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Applies one change of a name.
pub(crate) fn apply(names: &mut [Option<usize>; NAMES], change: Change) {
    match change {
        Change::Set(name, file) => names[name as usize] = Some(file),
        Change::Move(file, from, to) => {
            names[from as usize] = None;
            names[to as usize] = Some(file);
        }
        Change::Clear(name) => names[name as usize] = None,
    }
}

impl Storage for ModelDisk {
    fn path(&self, _: Name) -> &Path {
        &self.path
    }

    fn check_held(&self) -> Result<()> {
        Ok(())
    }

    fn open(&mut self, name: Name) -> io::Result<()> {
        let (mut state, _) = self.call(false)?;
        let file = state.names[name as usize].ok_or(Errno::NOENT)?;
        state.open[name as usize] = Some(file);
        Ok(())
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        let (mut state, _) = self.call(false)?;
        if state.names[name as usize].is_some() {
            return Err(Errno::EXIST.into());
        }
        let file = state.live.len();
        state.live.push(Vec::new());
        state.moment.files.push(File::default());
        state.names[name as usize] = Some(file);
        state.open[name as usize] = Some(file);
        state.moment.changes.push((Change::Set(name, file), Fate::Pending));
        Ok(())
    }

    fn len(&self, name: Name) -> io::Result<u64> {
        let (state, _) = self.call(false)?;
        Ok(state.live[state.file(name)?].len() as u64)
    }

    fn read_at(&self, name: Name, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (state, half) = self.call(false)?;
        let live = &state.live[state.file(name)?];
        let rest = live.get(offset as usize..).unwrap_or_default();
        let mut count = buffer.len().min(rest.len());
        if half {
            count = count.div_ceil(2);
        }
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, name: Name, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let (mut state, half) = self.call(false)?;
        let file = state.file(name)?;
        let count = if half { bytes.len().div_ceil(2) } else { bytes.len() };
        if let Some(rule) = state.rule.clone() {
            rule(name, &bytes[..count], offset);
        }
        state.write(file, offset as usize, &bytes[..count]);
        Ok(count)
    }

    fn reserve(&self, name: Name, offset: u64, len: u64) -> io::Result<()> {
        let (mut state, _) = self.call(false)?;
        let file = state.file(name)?;
        let (old, end) = (state.live[file].len(), (offset + len) as usize);
        if old < end {
            state.write(file, old, &vec![0; end - old]);
        }
        Ok(())
    }

    /// Holes are units of 16 zero bytes.
    fn next_data(&self, name: Name, from: u64) -> io::Result<Option<(u64, u64)>> {
        let (state, _) = self.call(false)?;
        let live = &state.live[state.file(name)?];
        if state.no_holes {
            return Ok((from < live.len() as u64).then_some((from, live.len() as u64)));
        }
        let is_data = |index: &usize| live[*index * 16..][..16].iter().any(|&byte| byte != 0);
        let units = live.len() / 16;
        let start = (from as usize / 16..units).find(is_data);
        Ok(start.map(|start| {
            let end = (start..units).find(|index| !is_data(index)).unwrap_or(units);
            (from.max(start as u64 * 16), end as u64 * 16)
        }))
    }

    fn sync(&self, name: Name) -> io::Result<()> {
        self.lock().barrier();
        let outcome = self.call(true).map(drop);
        let mut state = self.lock();
        if state.lie == Some(Lie::Sync(name)) {
            return outcome;
        }
        let file = state.file(name)?;
        let fate = if outcome.is_ok() { Fate::Durable } else { Fate::Forgotten };
        let file = &mut state.moment.files[file];
        file.writes
            .iter_mut()
            .filter(|write| write.fate == Fate::Pending)
            .for_each(|write| write.fate = fate);
        file.fold();
        outcome
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        let (mut state, _) = self.call(false)?;
        let change = Change::Move(state.names[from as usize].ok_or(Errno::NOENT)?, from, to);
        apply(&mut state.names, change);
        state.open[to as usize] = state.open[from as usize].take();
        state.moment.changes.push((change, Fate::Pending));
        Ok(())
    }

    fn rename_new(&mut self, from: Name, to: Name) -> io::Result<()> {
        if self.lock().names[to as usize].is_some() {
            return Err(Errno::EXIST.into());
        }
        self.rename(from, to)
    }

    fn unlink(&mut self, name: Name) -> io::Result<()> {
        let (mut state, _) = self.call(false)?;
        if state.names[name as usize].is_none() {
            return Err(Errno::NOENT.into());
        }
        apply(&mut state.names, Change::Clear(name));
        state.open[name as usize] = None;
        state.moment.changes.push((Change::Clear(name), Fate::Pending));
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.lock().barrier();
        let outcome = self.call(true).map(drop);
        let state = &mut *self.lock();
        if state.lie == Some(Lie::SyncFolder) {
            return outcome;
        }
        let fate = if outcome.is_ok() { Fate::Durable } else { Fate::Forgotten };
        let Moment { names, changes, .. } = &mut state.moment;
        changes.iter_mut().filter(|(_, fate)| *fate == Fate::Pending).for_each(|(_, was)| *was = fate);
        let kept = changes.iter().position(|(_, fate)| *fate != Fate::Durable).unwrap_or(changes.len());
        changes.drain(..kept).for_each(|(change, _)| apply(names, change));
        outcome
    }
}
