//! Waiting for what happens to GPUs.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{c_uint, c_ulonglong},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEventData_t, nvmlEventTypeDoubleBitEccError, nvmlEventTypeGpuRecoveryAction,
    nvmlEventTypeSingleBitEccError, nvmlEventTypeXidCriticalError,
};

use super::{
    ffi::{Answer, Code, Device, Pointer},
    reliability::recovery_action,
    session,
};
use crate::state::{Event, EventKind, MAX_GPUS, Machine};

/// A double-bit ECC error is reported with this XID.
const DOUBLE_BIT_XID: u32 = 48;

const SUPPORTED: c_ulonglong = (nvmlEventTypeXidCriticalError
    | nvmlEventTypeDoubleBitEccError
    | nvmlEventTypeSingleBitEccError
    | nvmlEventTypeGpuRecoveryAction) as c_ulonglong;

/// An event set: what is wanted of which GPU, and how far this set has read the machine's events.
#[derive(Default)]
struct Set {
    wanted: [c_ulonglong; MAX_GPUS],
    cursor: Option<u64>,
    /// One occurrence can be several events to NVML.
    pending: VecDeque<Pending>,
}

/// What the next wait ends with.
enum Pending {
    Event { gpu: usize, kind: c_ulonglong, data: c_ulonglong },
    Lost,
}

/// The sets that C holds, by the number that it holds for them: never an address, so that a wrong one is recognised.
static SETS: Mutex<BTreeMap<usize, Arc<Mutex<Set>>>> = Mutex::new(BTreeMap::new());

/// An event set as C passes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct EventSet(*mut std::ffi::c_void);

fn sets() -> MutexGuard<'static, BTreeMap<usize, Arc<Mutex<Set>>>> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn locked(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventSet {
    fn find(self) -> Result<Arc<Mutex<Set>>, Code> {
        sets().get(&self.0.addr()).cloned().ok_or(Code::InvalidArgument)
    }
}

impl Set {
    /// Turns what happened to the machine into what this set is to hear of it.
    fn take_in(&mut self, machine: &Machine, event: Event) {
        let wanted = self.wanted[event.gpu];
        let mut tell = |kind: u32, data: u32| {
            if wanted & c_ulonglong::from(kind) != 0 {
                self.pending.push_back(Pending::Event { gpu: event.gpu, kind: kind.into(), data: data.into() });
            }
        };
        match event.kind {
            EventKind::Xid(xid) => {
                tell(nvmlEventTypeXidCriticalError, xid);
                if xid == DOUBLE_BIT_XID {
                    tell(nvmlEventTypeDoubleBitEccError, 0);
                }
            }
            EventKind::Lost if wanted != 0 => self.pending.push_back(Pending::Lost),
            EventKind::Lost => {}
            EventKind::Recovered => tell(nvmlEventTypeGpuRecoveryAction, 0),
        }
        let action = recovery_action(machine.gpu(event.gpu));
        if action != 0
            && matches!(event.kind, EventKind::Xid(_))
            && wanted & c_ulonglong::from(nvmlEventTypeGpuRecoveryAction) != 0
        {
            let kind = nvmlEventTypeGpuRecoveryAction.into();
            self.pending.push_back(Pending::Event { gpu: event.gpu, kind, data: action.into() });
        }
    }
}

fn wait(set: EventSet, to: Pointer<nvmlEventData_t>, timeout_ms: c_uint) -> Answer {
    /// The longest sleep in one piece, after which a set that was freed or read by another thread is noticed.
    const PIECE: Duration = Duration::from_millis(50);
    let (machine, _) = session::current()?;
    let until = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        let shared = set.find()?;
        let cursor = {
            let mut set = locked(&shared);
            let mut cursor = set.cursor.unwrap_or_else(|| machine.event_cursor());
            while let Some(event) = machine.wait_event(&mut cursor, Duration::ZERO) {
                set.take_in(machine, event);
            }
            set.cursor = Some(cursor);
            match set.pending.pop_front() {
                Some(Pending::Event { gpu, kind, data }) => {
                    return to.put(nvmlEventData_t {
                        device: Device::of(gpu).as_nvml(),
                        eventType: kind,
                        eventData: data,
                        gpuInstanceId: c_uint::MAX,
                        computeInstanceId: c_uint::MAX,
                    });
                }
                Some(Pending::Lost) => return Err(Code::GpuIsLost),
                None => cursor,
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Code::Timeout);
        }
        // Only sleeps: the events are taken in above, under the set's lock.
        let _woken = machine.wait_event(&mut { cursor }, left.min(PIECE));
    }
}

impl Device {
    fn as_nvml(self) -> nvmlDevice_t {
        // The same address; C's type for it is another.
        self.address() as nvmlDevice_t
    }
}

exports! {
    /// Makes an event set.
    fn nvmlEventSetCreate(to: Pointer<EventSet>) {
        session::current()?;
        let mut sets = sets();
        let number = sets.last_key_value().map_or(1, |(number, _)| number + 1);
        to.put(EventSet(std::ptr::without_provenance_mut(number)))?;
        sets.insert(number, Arc::default());
        Ok(())
    }

    /// Ends an event set.
    fn nvmlEventSetFree(set: EventSet) {
        session::current()?;
        sets().remove(&set.0.addr()).map(|_| ()).ok_or(Code::InvalidArgument)
    }

    /// Adds kinds of events of a GPU to a set.
    fn nvmlDeviceRegisterEvents(device: Device, kinds: c_ulonglong, set: EventSet) {
        let gpu = device.gpu()?.facts().index;
        if kinds & !SUPPORTED != 0 {
            return Err(Code::NotSupported);
        }
        let set = set.find()?;
        let mut set = locked(&set);
        set.wanted[gpu] |= kinds;
        let (machine, _) = session::current()?;
        set.cursor.get_or_insert_with(|| machine.event_cursor());
        Ok(())
    }

    /// The kinds of events that a GPU can have.
    fn nvmlDeviceGetSupportedEventTypes(device: Device, kinds: Pointer<c_ulonglong>) {
        device.gpu()?;
        kinds.put(SUPPORTED)
    }

    /// Waits for the next event of a set, at most so many milliseconds.
    fn nvmlEventSetWait(set: EventSet, data: Pointer<nvmlEventData_t>, timeout_ms: c_uint) {
        wait(set, data, timeout_ms)
    }

    /// As `nvmlEventSetWait`.
    fn nvmlEventSetWait_v2(set: EventSet, data: Pointer<nvmlEventData_t>, timeout_ms: c_uint) {
        wait(set, data, timeout_ms)
    }
}
