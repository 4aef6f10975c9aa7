//! A hook for nearside-edge: old paths are redirected, pages are kept in two variants by a cookie, and responses say so.
//!
//! docs/edge-code.md explains the imports. Everything a hook needs is here; there is nothing else to link.
#![no_std]

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

#[link(wasm_import_module = "nearside_1")]
unsafe extern "C" {
    fn read(what: i32, out: *mut u8, room: usize) -> i32;
    fn header_get(name: *const u8, name_length: usize, out: *mut u8, room: usize) -> i32;
    fn header_set(name: *const u8, name_length: usize, value: *const u8, length: usize) -> i32;
    fn key_add(part: *const u8, length: usize) -> i32;
    fn redirect(status: i32, location: *const u8, length: usize) -> i32;
}

const PATH: i32 = 1;

/// A text of a request, as far as it fits.
fn fitted(buffer: &[u8], length: i32) -> &[u8] {
    &buffer[..buffer.len().min(usize::try_from(length).unwrap_or(0))]
}

/// Before the request is looked up.
#[unsafe(no_mangle)]
pub extern "C" fn on_request() {
    let mut buffer = [0; 1024];
    // SAFETY: pointers and lengths are those of slices that live over the calls.
    unsafe {
        let length = read(PATH, buffer.as_mut_ptr(), buffer.len());
        if let Some(rest) = fitted(&buffer, length).strip_prefix(b"/old/") {
            let mut location = [0; 1024];
            let target = b"/new/";
            let end = target.len() + rest.len().min(location.len() - target.len());
            location[..target.len()].copy_from_slice(target);
            location[target.len()..end].copy_from_slice(&rest[..end - target.len()]);
            redirect(301, location.as_ptr(), end);
            return;
        }
        let name = b"cookie";
        let length = header_get(name.as_ptr(), name.len(), buffer.as_mut_ptr(), buffer.len());
        let is_beta = fitted(&buffer, length).windows(6).any(|window| window == b"beta=1");
        let variant: &[u8] = if is_beta { b"beta" } else { b"stable" };
        key_add(variant.as_ptr(), variant.len());
        let field = b"x-variant";
        header_set(field.as_ptr(), field.len(), variant.as_ptr(), variant.len());
    }
}

/// Before the response leaves.
#[unsafe(no_mangle)]
pub extern "C" fn on_response() {
    let (name, value) = (b"x-edge-code", b"example");
    // SAFETY: as above.
    unsafe {
        header_set(name.as_ptr(), name.len(), value.as_ptr(), value.len());
    }
}
