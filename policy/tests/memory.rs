//! Sets of members stay small, few members or many: bytes counted by the allocator itself.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

use orbit_policy::members::{Asked, Member, Members, Span, member_id};

struct Counting;

static BYTES: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn insert(members: &Members, key: u128, number: u64) {
    let set = members.set(key);
    let id = member_id("active_users", "acme", &number.to_le_bytes());
    let span = Span { start: 0, end: 2_880 };
    let asked = Asked { set: &set, span, member: Member::of(&id), cap: None };
    members.turn([&*set]).insert(&asked);
}

#[test]
fn few_members_of_many_tenants_and_many_of_one_take_little_memory() {
    let members = Members::new(&[1; 16]);
    let held = || BYTES.load(Ordering::Relaxed);
    let before = held();
    // One in a hundred of a million tenants.
    for tenant in 0..10_000 {
        (0..3).for_each(|user| insert(&members, tenant, user));
    }
    let each = (held() - before) / 10_000;
    assert!(each <= 256, "{each} bytes for a tenant with three users");
    let before = held();
    (0..65_536).for_each(|user| insert(&members, 1 << 64, user));
    let exact = held() - before;
    assert!(exact <= 16 * 65_536 + 4_096, "{exact} bytes for 65 536 users one by one");
    (65_536..200_000).for_each(|user| insert(&members, 1 << 64, user));
    let sketch = held() - before;
    assert!(sketch <= 20 * 1_024, "{sketch} bytes for a sketch");
}
