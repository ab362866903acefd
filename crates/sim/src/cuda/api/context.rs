//! The current context.

use std::ffi::c_int;
use std::sync::atomic::Ordering;

use crate::cuda::context::{current, current_handle, current_unchecked, pop_current, push_current, set_current};
use crate::cuda::driver::driver;
use crate::cuda::error::{Answer, Error};
use crate::cuda::ffi::{Out, driver_api};
use crate::cuda::registry::Handle;

fn known(context: Handle) -> Answer {
    driver()?.contexts.get(context).map(drop).ok_or(Error::InvalidContext)
}

driver_api! {
    fn cuCtxGetCurrent(context: Out<Handle>) {
        driver()?;
        context.set(current_handle().unwrap_or(0))
    }

    fn cuCtxSetCurrent(context: Handle) {
        driver()?;
        if context != 0 {
            known(context)?;
        }
        set_current(context);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        known(context)?;
        push_current(context);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        driver()?;
        let popped = pop_current().ok_or(Error::InvalidContext)?;
        context.set_if_wanted(popped);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<c_int>) {
        device.set(current_unchecked()?.1.ordinal as c_int)
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        let context = if context == 0 { current_handle().ok_or(Error::InvalidContext)? } else { context };
        known(context)?;
        id.set(context)
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        known(context)?;
        version.set(3020)
    }

    fn cuCtxSynchronize() {
        let (driver, context) = current_unchecked()?;
        context.synchronize(driver)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        current_unchecked()?;
        flags.set(0)
    }

    fn cuCtxSetFlags(_flags: u32) {
        current().map(drop)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: c_int) {
        let (_, context) = current()?;
        let slot = usize::try_from(limit).ok().and_then(|at| context.limits.get(at)).ok_or(Error::InvalidValue)?;
        value.set(slot.load(Ordering::Relaxed))
    }

    fn cuCtxSetLimit(limit: c_int, value: usize) {
        let (_, context) = current()?;
        let slot = usize::try_from(limit).ok().and_then(|at| context.limits.get(at)).ok_or(Error::InvalidValue)?;
        slot.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<c_int>) {
        current()?;
        config.set(0)
    }

    fn cuCtxSetCacheConfig(_config: c_int) {
        current().map(drop)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        current()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(-5);
        Ok(())
    }
}
