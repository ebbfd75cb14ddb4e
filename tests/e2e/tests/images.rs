//! What is done with images beside running them: pruning by filters, importing file systems.

use anyhow::Result;
use support::daemon::Daemon;
use support::image::{Compression, Layer, busybox_layer, docker_archive, header, noise};
use tar::{Builder, EntryType};

/// Loads an image that was made long ago, with a label.
fn load_old(daemon: &Daemon, name: &str, label: &str) -> Result<()> {
    let mut layer = Builder::new(Vec::new());
    let mut head = header(EntryType::Regular, 0o644, name.len() as u64);
    layer.append_data(&mut head, "name", name.as_bytes())?;
    let config = serde_json::json!({ "Cmd": ["/x"], "Labels": { "age": "old", "is": label } });
    let file = daemon.dir().join("old.tar");
    std::fs::write(&file, docker_archive(name, &[layer.into_inner()?], &config)?)?;
    daemon.docker_ok(&["load", "-i", &file.display().to_string()])?;
    Ok(())
}

/// Makes an image now, with a label.
fn make_new(daemon: &Daemon, name: &str, label: &str) -> Result<()> {
    let change = format!("LABEL age=new is={label}");
    daemon.docker_ok(&["commit", "-c", &change, "base", name])?;
    Ok(())
}

/// Names of all images but those every daemon here has.
fn names(daemon: &Daemon) -> Result<Vec<String>> {
    let listed = daemon.docker_ok(&["images", "--filter", "label=age", "--format", "{{.Repository}}"])?;
    let mut names: Vec<String> = listed.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

#[test]
fn images_are_pruned_by_label_and_age() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.docker_ok(&["create", "--name", "base", "--network", "none", "busybox"])?;
    let fill = || -> Result<()> {
        load_old(&daemon, "old-red", "red")?;
        load_old(&daemon, "old-blue", "blue")?;
        make_new(&daemon, "new-red", "red")?;
        make_new(&daemon, "new-blue", "blue")?;
        // What lost its name to the images made anew.
        daemon.docker_ok(&["image", "prune", "--force", "--filter", "label=age"]).map(drop)
    };
    let cases: &[(&[&str], &[&str])] = &[
        (&["label=is=red"], &["new-blue", "old-blue"]),
        (&["label=is=red", "label=age=old"], &["new-blue", "new-red", "old-blue"]),
        (&["label!=is=red", "label=age"], &["new-red", "old-red"]),
        (&["label!=age"], &["new-blue", "new-red", "old-blue", "old-red"]),
        (&["label=is=green"], &["new-blue", "new-red", "old-blue", "old-red"]),
        (&["until=24h"], &["new-blue", "new-red"]),
        (&["until=2026-01-03"], &["new-blue", "new-red"]),
        (&["until=2026-01-01T00:00:00Z", "label=is=blue"], &["new-blue", "new-red", "old-red"]),
        (&["until=2025-12-31T23:59:59Z"], &["new-blue", "new-red", "old-blue", "old-red"]),
        (&["until=0s", "label=is"], &[]),
    ];
    fill()?;
    let listed = daemon.docker_ok(&["images", "--filter", "until=24h", "--format", "{{.Repository}}"])?;
    assert!(listed.contains("old-red") && !listed.contains("new-red"), "{listed}");
    for (filters, left) in cases {
        let mut args = vec!["image", "prune", "--force", "--all"];
        args.extend(filters.iter().flat_map(|filter| ["--filter", filter]));
        // Docker's command line, and the same of ours.
        for is_docker in [true, false] {
            fill()?;
            let said = if is_docker { daemon.docker(&args)? } else { daemon.cove(&args)? };
            assert_eq!(said.code, 0, "{filters:?}: {said:?}");
            assert!(said.out.contains("Total reclaimed space"), "{said:?}");
            assert_eq!(names(&daemon)?, *left, "{filters:?}, by docker: {is_docker}");
        }
    }
    fill()?;
    // Without --all only what has no name, and of that only what fits.
    daemon.docker_ok(&["image", "prune", "--force", "--filter", "label=is=red"])?;
    assert_eq!(names(&daemon)?.len(), 4);
    let red = daemon.docker_ok(&["images", "-q", "new-red"])?;
    make_new(&daemon, "new-red", "other")?;
    daemon.docker_ok(&["image", "prune", "--force", "--filter", "label=is=blue"])?;
    assert_eq!(daemon.docker(&["image", "inspect", &red])?.code, 0, "an image that does not fit is gone");
    daemon.docker_ok(&["image", "prune", "--force", "--filter", "label=is=red"])?;
    assert_eq!(daemon.docker(&["image", "inspect", &red])?.code, 1, "an image that fits is there");
    for (bad, words) in [("until=tomorrow", "until=tomorrow"), ("colour=red", "invalid filter 'colour'")] {
        let said = daemon.docker(&["image", "prune", "--force", "--filter", bad])?;
        assert!(said.code != 0 && said.err.contains(words), "{said:?}");
    }
    let twice = ["--filter", "until=1h", "--filter", "until=2h"];
    let said = daemon.docker(&[["image", "prune", "--force"].as_slice(), &twice].concat())?;
    assert!(said.code != 0 && said.err.contains("more than one until filter"), "{said:?}");
    Ok(())
}

#[test]
fn an_imported_file_system_runs() -> Result<()> {
    let daemon = Daemon::start_empty(&[])?;
    let root = busybox_layer()?;
    let run = |image: &str, args: &[&str]| {
        daemon.docker_ok(&[&["run", "--rm", "--network", "none", image], args].concat())
    };
    // From standard input, with a configuration.
    let changes = ["-c", "ENV PATH=/bin GREETING=hello", "-c", "CMD [\"sh\", \"-c\", \"echo $GREETING\"]"];
    let args = [&["import", "-m", "made here"], changes.as_slice(), &["-", "team/flat:2"]].concat();
    let said = daemon.docker_with(&args, &root)?;
    assert!(said.code == 0 && said.out.starts_with("sha256:"), "{said:?}");
    assert_eq!(run("team/flat:2", &[])?, "hello");
    let show = "{{.Id}} {{.Comment}} {{.RepoTags}} {{len .RootFS.Layers}}";
    let shown = daemon.docker_ok(&["image", "inspect", "-f", show, "team/flat:2"])?;
    assert_eq!(shown, format!("{} made here [team/flat:2] 1", said.out));
    // From a compressed file, without a name, for another processor.
    for (name, compression) in [("root.tar.gz", Compression::Gzip), ("root.tar.zst", Compression::Zstd)] {
        let file = daemon.dir().join(name);
        std::fs::write(&file, Layer::pack(&root, compression)?.bytes)?;
        let file = file.display().to_string();
        let args = ["import", "--platform", "linux/arm64/v8", "-c", "ENV PATH=/bin", &file];
        for said in [daemon.docker(&args)?, daemon.cove(&args)?] {
            assert_eq!(said.code, 0, "{said:?}");
            let show = "{{.Architecture}} {{.Variant}} {{.RepoTags}} {{.Comment}}";
            let shown = daemon.docker_ok(&["image", "inspect", "-f", show, &said.out])?;
            assert_eq!(shown, "arm64 v8 [] Imported from -");
            assert_eq!(run(&said.out, &["ls", "/bin/busybox"])?, "/bin/busybox");
        }
    }
    // What export writes; and what was imported is saved and loaded like any other.
    daemon.docker_ok(&["run", "--name", "box", "--network", "none", "team/flat:2", "touch", "/made"])?;
    let (exported, saved) = (daemon.dir().join("box.tar"), daemon.dir().join("saved.tar"));
    let (exported, saved) = (exported.display().to_string(), saved.display().to_string());
    daemon.docker_ok(&["export", "-o", &exported, "box"])?;
    let said = daemon.cove(&["image", "import", "-m", "again", &exported, "again"])?;
    assert_eq!(said.code, 0, "{said:?}");
    daemon.docker_ok(&["save", "-o", &saved, "again"])?;
    daemon.docker_ok(&["rmi", "again"])?;
    daemon.docker_ok(&["load", "-i", &saved])?;
    assert_eq!(run("again:latest", &["/bin/ls", "/made"])?, "/made");
    Ok(())
}

#[test]
fn what_can_not_be_imported_is_refused_and_leaves_nothing() -> Result<()> {
    let daemon = Daemon::start_empty(&[])?;
    let before = daemon.docker_ok(&["images", "-aq"])?;
    let root = busybox_layer()?;
    let refused = |args: &[&str], input: &[u8], words: &str| -> Result<()> {
        let said = daemon.docker_with(&[&["import"], args].concat(), input)?;
        assert!(said.code != 0 && said.err.contains(words), "{args:?}: {said:?}");
        Ok(())
    };
    refused(&["http://127.0.0.1:1/root.tar"], b"", "download the archive and import the file")?;
    refused(&["-c", "RUN true", "-"], &root, "RUN is not a valid change command")?;
    refused(&["--platform", "windows/amd64", "-"], &root, "windows")?;
    refused(&["-", "UPPER"], &root, "")?;
    refused(&["-"], &root[..root.len() / 2], "cut off")?;
    refused(&["-"], &noise(5, 100_000), "malformed")?;
    refused(&["-"], b"BZh91AY&SY and more of it", "bzip2")?;
    refused(&["-"], b"\xfd7zXZ\0\0\0 and more of it", "xz")?;
    // A hard link to a file of this machine.
    let mut layer = Builder::new(Vec::new());
    layer.append_link(&mut header(EntryType::Link, 0o644, 0), "stolen", "/etc/hostname")?;
    refused(&["-"], &layer.into_inner()?, "stolen")?;
    assert_eq!(daemon.docker_ok(&["images", "-aq"])?, before);
    assert_eq!(daemon.entries("root/ingest"), Vec::<String>::new());
    Ok(())
}

/// A layer of directories (with mode and owner), files, and whiteouts.
fn layer_of(dirs: &[(&str, u32, u64)], files: &[&str]) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (name, mode, owner) in dirs {
        let mut head = header(EntryType::Directory, *mode, 0);
        head.set_uid(*owner);
        head.set_gid(*owner);
        layer.append_data(&mut head, name, std::io::empty())?;
    }
    for name in files {
        layer.append_data(&mut header(EntryType::Regular, 0o644, 1), name, b"x".as_slice())?;
    }
    Ok(layer.into_inner()?)
}

#[test]
fn directories_a_layer_only_implies_look_as_below() -> Result<()> {
    let mut daemon = Daemon::start_empty(&[])?;
    let load = |daemon: &Daemon, name: &str, layers: &[Vec<u8>]| -> Result<()> {
        let layers = [&[busybox_layer()?], layers].concat();
        let archive = docker_archive(name, &layers, &serde_json::json!({ "Env": ["PATH=/bin"] }))?;
        let file = daemon.dir().join("image.tar");
        std::fs::write(&file, archive)?;
        daemon.docker_ok(&["load", "-i", &file.display().to_string()]).map(drop)
    };
    let upper = layer_of(&[], &["a/b/file", "a/new/file", "tmp/file", "root/file"])?;
    let red = layer_of(&[("./", 0o711, 0), ("a", 0o750, 7), ("a/b", 0o2775, 50)], &[])?;
    let blue = layer_of(&[("a", 0o1700, 8)], &[])?;
    // The same layer on top of two others, which it looks like in turn.
    load(&daemon, "red", &[red.clone(), upper.clone()])?;
    load(&daemon, "blue", &[blue, upper.clone()])?;
    // An explicit entry counts, whatever lies below it; and what was deleted in between gives nothing.
    load(&daemon, "explicit", &[red.clone(), layer_of(&[("a", 0o755, 9)], &["a/b/file"])?, upper.clone()])?;
    load(&daemon, "deleted", &[red.clone(), layer_of(&[], &["a/.wh.b"])?, upper.clone()])?;
    load(&daemon, "opaque", &[red, layer_of(&[], &["a/.wh..wh..opq"])?, upper])?;
    let show = "stat -c '%n %a %u' / /a /a/b /a/new /tmp /root; cat /a/b/file /a/new/file";
    let shown = |daemon: &Daemon, image: &str| -> Result<Vec<String>> {
        let run = ["run", "--rm", "--network", "none", image, "sh", "-c", show];
        let said = daemon.docker_ok(&run)?;
        Ok(said.split('\n').map(str::to_owned).collect())
    };
    let expected: [(&str, [&str; 4]); 5] = [
        ("red", ["/ 711 0", "/a 750 7", "/a/b 2775 50", "/a/new 755 0"]),
        ("blue", ["/ 755 0", "/a 1700 8", "/a/b 755 0", "/a/new 755 0"]),
        ("explicit", ["/ 711 0", "/a 755 9", "/a/b 2775 50", "/a/new 755 0"]),
        ("deleted", ["/ 711 0", "/a 750 7", "/a/b 755 0", "/a/new 755 0"]),
        ("opaque", ["/ 711 0", "/a 750 7", "/a/b 755 0", "/a/new 755 0"]),
    ];
    for (image, lines) in expected {
        let lines = [lines.as_slice(), &["/tmp 1777 0", "/root 700 0", "xx"]].concat();
        assert_eq!(shown(&daemon, image)?, lines, "{image}");
    }
    // A container keeps its view when its image is taken away and the daemon starts anew, and writing
    // into such a directory changes nothing about it.
    let name = ["create", "--name", "box", "--network", "none", "red", "sh", "-c"];
    daemon.docker_ok(&[name.as_slice(), &["touch /a/b/more; stat -c '%a %u' / /a /a/b"]].concat())?;
    daemon.docker_ok(&["commit", "box", "made"])?;
    let inspect = |daemon: &Daemon, what: &str, image: &str| {
        daemon.docker_ok(&["image", "inspect", "-f", &format!("{{{{{what}}}}}"), image])
    };
    let red = inspect(&daemon, ".Id", "red")?;
    daemon.crash()?;
    daemon.launch()?;
    assert_eq!(inspect(&daemon, ".Parent", "made")?, red);
    daemon.docker_ok(&["rmi", "--force", "red"])?;
    assert_eq!(inspect(&daemon, ".Parent", "made")?, "");
    daemon.crash()?;
    daemon.launch()?;
    assert_eq!(inspect(&daemon, ".Parent", "made")?, "");
    assert_eq!(daemon.docker_ok(&["start", "-a", "box"])?, "711 0\n750 7\n2775 50");
    assert_eq!(daemon.docker_ok(&["diff", "box"])?, "C /a\nC /a/b\nA /a/b/more");
    // So does an image made of one, and all of it goes with the last that needs it.
    assert_eq!(shown(&daemon, "made")?[..3], ["/ 711 0", "/a 750 7", "/a/b 2775 50"]);
    daemon.docker_ok(&["rm", "box"])?;
    daemon.docker_ok(&["rmi", "made", "blue", "explicit", "deleted", "opaque"])?;
    assert_eq!(daemon.entries("root/implied"), Vec::<String>::new());
    Ok(())
}
