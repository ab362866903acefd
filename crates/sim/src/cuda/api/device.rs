//! Devices: number, names, attributes, primary contexts, peers.

use std::ffi::{c_char, c_int};

use crate::cuda::context::{current, set_current};
use crate::cuda::device::{attribute, can_access, uuid_bytes};
use crate::cuda::driver::driver;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{In, Out, driver_api};
use crate::cuda::registry::Handle;

/// `CUuuid`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Uuid([u8; 16]);

fn set_text(text: &str, to: Out<c_char>, room: c_int) -> Answer {
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Error::InvalidValue)?;
    let mut bytes: Vec<c_char> = text.bytes().take(room - 1).map(|b| b as c_char).collect();
    bytes.push(0);
    to.set_all(&bytes)
}

driver_api! {
    fn cuDeviceGetCount(count: Out<c_int>) {
        count.set(driver()?.devices.len() as c_int)
    }

    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) {
        driver()?.device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, room: c_int, device: c_int) {
        let driver = driver()?;
        set_text(&driver.device(device)?.facts(driver).board.name, name, room)
    }

    fn cuDeviceGetUuid(uuid: Out<Uuid>, device: c_int) {
        let driver = driver()?;
        uuid.set(Uuid(uuid_bytes(&driver.device(device)?.facts(driver).uuid)))
    }

    fn cuDeviceGetUuid_v2(uuid: Out<Uuid>, device: c_int) {
        let driver = driver()?;
        uuid.set(Uuid(uuid_bytes(&driver.device(device)?.facts(driver).uuid)))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: c_int) {
        let driver = driver()?;
        let memory = driver.device(device)?.gpu(driver).memory();
        bytes.set((memory.total_bytes - memory.reserved_bytes) as usize)
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, number: c_int, device: c_int) {
        let driver = driver()?;
        value.set(attribute(driver, driver.device(device)?, number)?)
    }

    fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, device: c_int) {
        let driver = driver()?;
        let capability = driver.device(device)?.facts(driver).compute_capability;
        major.set(capability.0 as c_int)?;
        minor.set(capability.1 as c_int)
    }

    fn cuDeviceGetPCIBusId(text: Out<c_char>, room: c_int, device: c_int) {
        let driver = driver()?;
        let pci = &driver.device(device)?.facts(driver).pci;
        set_text(&format!("{:04X}:{:02X}:{:02X}.{:X}", pci.domain, pci.bus, pci.device, pci.function), text, room)
    }

    fn cuDeviceGetByPCIBusId(device: Out<c_int>, text: In<c_char>) {
        let (driver, wanted) = (driver()?, text.text()?);
        let found = driver.devices.iter().find(|device| {
            let pci = &device.facts(driver).pci;
            let full = format!("{:04x}:{:02x}:{:02x}.{:x}", pci.domain, pci.bus, pci.device, pci.function);
            full == wanted.to_lowercase() || full[5..] == wanted.to_lowercase()
        });
        device.set(found.ok_or(Error::InvalidValue)?.ordinal as c_int)
    }

    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) {
        let driver = driver()?;
        if context.is_null() {
            return Err(Error::InvalidValue);
        }
        context.set(driver.device(device)?.retain_primary(driver)?.handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        let driver = driver()?;
        driver.device(device)?.release_primary(driver)
    }

    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        let driver = driver()?;
        driver.device(device)?.reset_primary(driver);
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<u32>, active: Out<c_int>) {
        let (present, is_active) = driver()?.device(device)?.primary_state();
        flags.set(present)?;
        active.set(c_int::from(is_active))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: u32) {
        driver()?.device(device)?.set_primary_flags(flags);
        Ok(())
    }

    fn cuDeviceCanAccessPeer(answer: Out<c_int>, device: c_int, peer: c_int) {
        let driver = driver()?;
        let (from, to) = (driver.device(device)?, driver.device(peer)?);
        answer.set(c_int::from(can_access(from.facts(driver), to.facts(driver))))
    }

    fn cuDeviceGetP2PAttribute(value: Out<c_int>, number: c_int, device: c_int, peer: c_int) {
        let driver = driver()?;
        let (from, to) = (driver.device(device)?.facts(driver), driver.device(peer)?.facts(driver));
        let wired = from.nvlinks_to(to) > 0;
        value.set(match number {
            // Performance rank: 0 is best.
            1 => c_int::from(!wired),
            2 => c_int::from(can_access(from, to)),
            // Atomics over the link.
            3 => c_int::from(wired),
            // Arrays, and everything newer.
            _ => 0,
        })
    }

    fn cuCtxEnablePeerAccess(peer: Handle, _flags: u32) {
        let (driver, context) = current()?;
        let peer = driver.contexts.get(peer).ok_or(Error::InvalidContext)?;
        let (from, to) = (driver.machine.gpu(context.gpu).facts(), driver.machine.gpu(peer.gpu).facts());
        if !can_access(from, to) {
            return Err(Error::PeerAccessUnsupported);
        }
        context.set_peer(peer.gpu, true)
    }

    fn cuCtxDisablePeerAccess(peer: Handle) {
        let (driver, context) = current()?;
        context.set_peer(driver.contexts.get(peer).ok_or(Error::InvalidContext)?.gpu, false)
    }

    fn cuCtxCreate_v2(context: Out<Handle>, _flags: u32, device: c_int) {
        create(context, device)
    }

    fn cuCtxCreate_v3(context: Out<Handle>, _affinity: In<u8>, _count: c_int, _flags: u32, device: c_int) {
        create(context, device)
    }

    fn cuCtxCreate_v4(context: Out<Handle>, _params: In<u8>, _flags: u32, device: c_int) {
        create(context, device)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let driver = driver()?;
        let object = driver.contexts.get(context).filter(|object| !object.is_primary).ok_or(Error::InvalidContext)?;
        object.destroy(driver);
        if crate::cuda::context::current_handle() == Some(context) {
            set_current(0);
        }
        Ok(())
    }
}

fn create(context: Out<Handle>, device: c_int) -> Answer {
    let driver = driver()?;
    let made = crate::cuda::context::Context::create(driver, driver.device(device)?, false)?;
    crate::cuda::context::push_current(made.handle);
    context.set(made.handle)
}
