//! Starting the real engine, if it lies beside the tests.

use std::time::{Duration, Instant};

use api::client::Client;
use host::engine::Starter;

#[tokio::test]
async fn the_engine_beside_us_is_started_answers_and_ends_when_it_has_nothing_to_do() {
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("coved");
    if !program.is_file() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "can't be skipped in CI");
        let line = format!("skipped, because {} was not built\n", program.display());
        drop(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let socket = state.join("cove.sock");
    let argument = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let starter = Starter {
        program: Some(program),
        arguments: vec![
            "--listen".into(),
            format!("unix://{}", socket.display()),
            "--root".into(),
            argument(&dir.path().join("root")),
            "--state".into(),
            argument(&state),
            "--idle-exit".into(),
            "1".into(),
        ],
        state_dir: state,
    };
    let client = Client::new(format!("unix://{}", socket.display()).parse().unwrap());
    let begun = Instant::now();
    starter.start(&client).await.unwrap();
    let line = format!("started in {:?}\n", begun.elapsed());
    drop(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()));
    assert!(!client.version().await.unwrap().version.is_empty());
    let end = Instant::now() + Duration::from_secs(20);
    while client.probe().await.is_ok() {
        assert!(Instant::now() < end, "the engine stays though nobody needs it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
