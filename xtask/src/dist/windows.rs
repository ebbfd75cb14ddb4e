//! What Windows' installer is made of. It is built by WiX, on Windows.

use super::manifests::{Check, Facts, Of};
use super::xml::Element;

/// What is wrong in `packaging/windows`.
pub(super) fn wrong(facts: &Facts) -> Vec<String> {
    let mut check = Check::new("windows", facts);
    check.file("cove.wxs", Element::parse, installer);
    check.file("logon.xml", Element::parse, task);
    check.done()
}

fn installer(of: &mut Of<'_, '_>, root: &Element) {
    of.equal("the element", root.name.as_str(), "Wix");
    of.equal("its namespace", root.attribute("xmlns"), "http://wixtoolset.org/schemas/v4/wxs");
    for package in root.all("Package") {
        of.equal("Version", package.attribute("Version"), "$(Version)");
        of.equal("Scope", package.attribute("Scope"), "perMachine");
        if !is_guid(package.attribute("UpgradeCode")) {
            of.wrong("UpgradeCode is no GUID");
        }
    }
    for file in root.all("File") {
        let source = file.attribute("Source");
        match (source.strip_prefix("$(Programs)\\"), source.strip_prefix("$(Packaging)\\")) {
            (Some(program), _) => of.program(program.strip_suffix(".exe").unwrap_or(program)),
            (_, Some(name)) => of.beside(name),
            _ => of.wrong(&format!("{source} is nowhere")),
        }
    }
    for (user, key, named) in
        [("Custom", "Action", "CustomAction"), ("ComponentGroupRef", "Id", "ComponentGroup")]
    {
        let known: Vec<&str> = root.all(named).iter().map(|element| element.attribute("Id")).collect();
        for element in root.all(user) {
            if !known.contains(&element.attribute(key)) {
                of.wrong(&format!("there is no {named} {:?}", element.attribute(key)));
            }
        }
    }
    let folders = root.all("Directory");
    let folder = folders.iter().find(|folder| folder.attribute("Id") == "INSTALLFOLDER");
    let folder = folder.map(|folder| folder.attribute("Name")).unwrap_or_default();
    of.stands_in("crates/host/src/sys/windows.rs", &format!("C:\\Program Files\\{folder}\\guest"));
    service(of, root);
}

/// The service may be whoever asks, and has no privilege beside that and the one that all have.
fn service(of: &mut Of<'_, '_>, root: &Element) {
    let services = root.all("ServiceInstall");
    of.equal("the number of services", services.len(), 1);
    for service in services {
        let name = service.attribute("Name");
        of.stands_in("vm/hyperv/src/sys/windows/serve.rs", &format!("NAME: &str = {name:?}"));
        of.equal("Account", service.attribute("Account"), "LocalSystem");
        of.equal("Arguments", service.attribute("Arguments"), "");
        let privileges: Vec<&str> =
            service.all("RequiredPrivilege").iter().map(|one| one.attribute("Name")).collect();
        of.equal("its privileges", privileges, vec!["SeChangeNotifyPrivilege", "SeImpersonatePrivilege"]);
        for control in root.all("ServiceControl") {
            of.equal("ServiceControl's name", control.attribute("Name"), name);
        }
    }
}

fn task(of: &mut Of<'_, '_>, root: &Element) {
    of.equal("the element", root.name.as_str(), "Task");
    for level in root.all("RunLevel") {
        of.equal("RunLevel", level.text(), "LeastPrivilege");
    }
    for exec in root.all("Command") {
        let program = exec.text().strip_prefix("%ProgramFiles%\\Cove\\").unwrap_or(exec.text());
        of.program(program.strip_suffix(".exe").unwrap_or(program));
    }
    let settings = root.all("Settings");
    let enabled = settings.iter().flat_map(|settings| settings.all("Enabled")).map(Element::text);
    of.equal("whether it is on", enabled.collect::<Vec<_>>(), vec!["false"]);
    of.equal("the number of programs", root.all("Command").len(), 1);
}

fn is_guid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|digit| digit == '-' || digit.is_ascii_hexdigit())
}
