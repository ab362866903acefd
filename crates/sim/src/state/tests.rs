use std::{
    path::PathBuf,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use super::*;

fn shared(profile: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine");
    Machine::create(&path, Profile::load(profile).unwrap(), "node-1", Isolation::Off).unwrap();
    (folder, path)
}

#[test]
fn one_process_sees_the_memory_that_another_holds() {
    let (_folder, path) = shared("a100x4");
    let (one, two) = (Machine::open(&path).unwrap(), Machine::open(&path).unwrap());
    let before = two.gpu(1).memory();
    one.process().unwrap().allocate(1, 5 << 30).unwrap();
    one.process().unwrap().context_created(1);
    let after = two.gpu(1).memory();
    assert_eq!(after.used_bytes, 5 << 30);
    assert_eq!(before.free_bytes - after.free_bytes, 5 << 30);
    assert_eq!(two.gpu(0).memory().used_bytes, 0);
    let users = two.processes(1);
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].pid, std::process::id() as i32);
    assert_eq!(users[0].memory_bytes, 5 << 30);
}

#[test]
fn memory_is_given_back_when_its_holder_is_gone() {
    let (_folder, path) = shared("a100x4");
    let (one, two) = (Machine::open(&path).unwrap(), Machine::open(&path).unwrap());
    one.process().unwrap().allocate(0, 1 << 30).unwrap();
    assert_eq!(two.gpu(0).memory().used_bytes, 1 << 30);
    drop(one);
    assert_eq!(two.gpu(0).memory().used_bytes, 0);
    assert!(two.processes(0).is_empty());
}

#[test]
fn no_more_is_given_out_than_there_is() {
    let (_folder, path) = shared("a100x4");
    let (one, two) = (Machine::open(&path).unwrap(), Machine::open(&path).unwrap());
    let free = one.gpu(0).memory().free_bytes;
    one.process().unwrap().allocate(0, free - 100).unwrap();
    let refused = two.process().unwrap().allocate(0, 101).unwrap_err();
    assert_eq!(refused, OutOfMemory { gpu: 0, wanted_bytes: 101, free_bytes: 100 });
    assert!(two.process().unwrap().allocate(0, u64::MAX).is_err());
    two.process().unwrap().allocate(0, 100).unwrap();
    two.process().unwrap().free(0, 1000);
    assert_eq!(one.gpu(0).memory().free_bytes, 100);
    // The dead make room for a request that would fail otherwise.
    drop(one);
    two.process().unwrap().allocate(0, free).unwrap();
}

#[test]
fn work_shows_as_utilisation_power_and_heat() {
    let machine = Machine::private(Profile::load("h100x8").unwrap()).unwrap();
    let idle = machine.gpu(2).load();
    assert!(idle.idle && idle.gpu_percent == 0);
    assert_eq!(idle.power_mw, 70_000);

    let busy = machine.process().unwrap().busy(2);
    // As if it had begun two seconds ago.
    let began = &machine.mapping.layout().slots[*machine.slot.get().unwrap()].uses[2].busy_since_ns;
    began.fetch_sub(2_000_000_000, Relaxed);
    let during = machine.gpu(2).load();
    assert_eq!(during.gpu_percent, 100);
    assert!(during.power_mw > 600_000 && during.temperature_c > idle.temperature_c + 3, "{during:?}");
    assert_eq!(machine.gpu(3).load().gpu_percent, 0);

    drop(busy);
    let after = machine.gpu(2).load();
    assert!(after.gpu_percent > 80 && after.busy_ns >= 2_000_000_000, "{after:?}");
    assert!(after.energy_mj >= during.energy_mj && during.energy_mj > idle.energy_mj);
}

#[test]
fn a_fault_reaches_every_waiter_and_ends_contexts() {
    let (_folder, path) = shared("h100x8");
    let (one, two) = (Machine::open(&path).unwrap(), Machine::open(&path).unwrap());
    let mut cursors = [one.event_cursor(), two.event_cursor()];
    let epoch = two.gpu(3).context_epoch();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| two.wait_event(&mut cursors[1], Duration::from_secs(60)));
        one.gpu(3).raise(Fault::Xid(79)).unwrap();
        let event = waiting.join().unwrap().unwrap();
        assert_eq!((event.gpu, event.kind), (3, EventKind::Xid(79)));
    });
    assert_eq!(one.wait_event(&mut cursors[0], Duration::ZERO).unwrap().kind, EventKind::Xid(79));
    assert_eq!(two.gpu(3).health(), Health::Lost);
    assert_ne!(two.gpu(3).context_epoch(), epoch);
    assert_eq!(two.gpu(2).health(), Health::Healthy);

    one.gpu(3).raise(Fault::Recover).unwrap();
    assert_eq!(two.gpu(3).health(), Health::Healthy);
    assert_eq!(two.gpu(3).last_xid(), None);
}

#[test]
fn an_application_s_xid_is_reported_but_harms_nobody_else() {
    let machine = Machine::private(Profile::load("a100x4").unwrap()).unwrap();
    let epoch = machine.gpu(0).context_epoch();
    machine.gpu(0).raise(Fault::Xid(31)).unwrap();
    assert_eq!((machine.gpu(0).health(), machine.gpu(0).last_xid()), (Health::Healthy, Some(31)));
    assert_eq!(machine.gpu(0).context_epoch(), epoch);
    machine.gpu(0).raise(Fault::Xid(95)).unwrap();
    assert_eq!(machine.gpu(0).health(), Health::Xid(95));
    assert_ne!(machine.gpu(0).context_epoch(), epoch);
}

#[test]
fn a_waiter_that_falls_behind_gets_the_newest_events() {
    let machine = Machine::private(Profile::load("a100x4").unwrap()).unwrap();
    let mut cursor = machine.event_cursor();
    for xid in 1000..1500 {
        machine.gpu(0).raise(Fault::Xid(xid)).unwrap();
    }
    let mut seen = Vec::new();
    while let Some(event) = machine.wait_event(&mut cursor, Duration::ZERO) {
        seen.push(event.kind);
    }
    assert_eq!(seen.last(), Some(&EventKind::Xid(1499)));
    assert_eq!(seen.len(), file::EVENTS - 1);
}

#[test]
fn lines_of_the_control_file_happen_once() {
    let (_folder, path) = shared("h100x8");
    let control = path.with_file_name("machine.control");
    let machine = Machine::open(&path).unwrap();
    let uuid = machine.gpu(5).facts().uuid.clone();
    let mut cursor = machine.event_cursor();
    std::fs::write(&control, format!("3 xid 95\nnonsense\n# a comment\n{uuid} lost\n4 lo")).unwrap();
    let kinds = [(); 2].map(|()| machine.wait_event(&mut cursor, Duration::from_secs(60)).map(|e| (e.gpu, e.kind)));
    assert_eq!(kinds, [Some((3, EventKind::Xid(95))), Some((5, EventKind::Lost))]);
    assert_eq!(machine.gpu(4).health(), Health::Healthy);
    std::fs::write(&control, format!("3 xid 95\nnonsense\n# a comment\n{uuid} lost\n4 lost\n")).unwrap();
    let event = machine.wait_event(&mut cursor, Duration::from_secs(60)).unwrap();
    assert_eq!((event.gpu, event.kind), (4, EventKind::Lost));

    // A machine made anew has nothing to do with old lines.
    Machine::create(&path, Profile::load("h100x8").unwrap(), "node-1", Isolation::Off).unwrap();
    let anew = Machine::open(&path).unwrap();
    anew.poll();
    assert!(anew.gpus().all(|gpu| gpu.health() == Health::Healthy));
}

#[test]
fn waiting_ends_at_the_timeout() {
    let machine = Machine::private(Profile::load("a100x4").unwrap()).unwrap();
    let mut cursor = machine.event_cursor();
    let began = Instant::now();
    assert_eq!(machine.wait_event(&mut cursor, Duration::from_millis(30)), None);
    assert!(began.elapsed() >= Duration::from_millis(30));
}

#[test]
fn files_that_are_no_state_are_refused_with_the_next_step() {
    let (_folder, path) = shared("a100x4");
    let whole = std::fs::read(&path).unwrap();
    let refuse = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        match Machine::open(&path) {
            Ok(_) => panic!("opened"),
            Err(error) => error.to_string(),
        }
    };
    let mut older = whole.clone();
    older[8] = 0;
    assert!(refuse(&older).contains("has format 0, this simulator reads format 1"));
    assert!(refuse(b"something else entirely").contains("is not a machine state"));
    assert!(refuse(b"").contains("is not a machine state"));
    assert!(refuse(&whole[..whole.len() - 1]).contains("is damaged"));
    assert!(refuse(&whole[..5000]).contains("is damaged"));
    let mut text = whole.clone();
    let end = text.len() - 40;
    text[end..].fill(b'%');
    assert!(refuse(&text).contains("is damaged"));
    let gone = Machine::open(&path.with_file_name("nowhere")).err().unwrap().to_string();
    assert!(gone.contains("nowhere"), "{gone}");
}

#[test]
fn cuda_s_variable_narrows_and_orders() {
    let machine = Machine::private(Profile::load("h100x8").unwrap()).unwrap();
    let uuid = |index: usize| machine.gpu(index).facts().uuid.clone();
    let visible = [2, 3, 6];
    let cases: [(String, &[usize]); 8] = [
        ("1,0".into(), &[3, 2]),
        (String::new(), &[]),
        ("0,-1,1".into(), &[2]),
        ("0,7,1".into(), &[2]),
        ("2,2".into(), &[]),
        (format!("{},{}", uuid(6), uuid(2)), &[6, 2]),
        (format!("{},0", uuid(5)), &[]),
        (uuid(3)[..12].into(), &[3]),
    ];
    for (list, want) in cases {
        assert_eq!(machine.narrow(&visible, &list), want, "{list}");
    }
}
