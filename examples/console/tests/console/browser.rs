//! Chromium without a window, driven over WebDriver (W3C recommendation).

use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use streamlink_tests::{eventually, peer::Peer, rig::free_port};
use ureq::Agent;

/// Name of the member that refers to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page.
pub(crate) struct Browser {
    _driver: Peer,
    agent: Agent,
    session: String,
}

/// An element of the page.
#[derive(Clone, Debug)]
pub(crate) struct Element(String);

impl Browser {
    /// Starts a browser whose window has this size.
    #[track_caller]
    pub(crate) fn start(width: u32, height: u32) -> Self {
        let port = free_port();
        let driver = Peer::start("chromedriver", &[&format!("--port={port}")]);
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(60)));
        let agent: Agent = config.build().into();
        let base = format!("http://127.0.0.1:{port}");
        let options = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--force-prefers-reduced-motion", format!("--window-size={width},{height}")
            ] }
        } } });
        let session =
            eventually(&format!("chromium (packages chromium, chromium-driver): {}", driver.output()), || {
                let mut answer = agent.post(format!("{base}/session")).send(options.to_string()).ok()?;
                let answer: Value = answer.body_mut().read_json().ok()?;
                Some(answer["value"]["sessionId"].as_str()?.to_owned())
            });
        let browser = Self { _driver: driver, agent, session: format!("{base}/session/{session}") };
        // The window of a browser without one is not as wide as it is told, below 500 pixels.
        let metrics = json!({ "cmd": "Emulation.setDeviceMetricsOverride",
            "params": { "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false } });
        browser.command("POST", "/goog/cdp/execute", Some(&metrics));
        browser
    }

    fn try_command(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Value> {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.session));
        let answer = match body {
            Some(body) => self.agent.run(request.body(body.to_string()).unwrap()),
            None => self.agent.run(request.body(()).unwrap()),
        };
        let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let is_good = answer.status().is_success();
        let value: Value = answer.body_mut().with_config().limit(64 << 20).read_json().unwrap();
        if is_good { Ok(value["value"].clone()) } else { Err(value["value"].clone()) }
    }

    #[track_caller]
    fn command(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.try_command(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Opens an address.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", Some(&json!({ "url": url })));
    }

    /// Chooses dark or light colours, as the system of a person would.
    pub(crate) fn prefer(&self, scheme: &str) {
        let media = json!({ "cmd": "Emulation.setEmulatedMedia",
            "params": { "features": [{ "name": "prefers-color-scheme", "value": scheme }] } });
        self.command("POST", "/goog/cdp/execute", Some(&media));
    }

    fn try_find(&self, xpath: &str) -> Option<Element> {
        let body = json!({ "using": "xpath", "value": xpath });
        let found = self.try_command("POST", "/element", Some(&body)).ok()?;
        Some(Element(found[ELEMENT].as_str()?.to_owned()))
    }

    /// Waits for an element.
    #[track_caller]
    pub(crate) fn find(&self, xpath: &str) -> Element {
        eventually(&format!("{xpath}\n{}", self.text()), || self.try_find(xpath))
    }

    /// Waits until there is no such element.
    #[track_caller]
    pub(crate) fn wait_for_none(&self, xpath: &str) {
        eventually(&format!("no {xpath}"), || self.try_find(xpath).is_none().then_some(()));
    }

    /// Waits for an element that can be clicked, and clicks it.
    #[track_caller]
    pub(crate) fn click(&self, xpath: &str) {
        eventually(&format!("a click on {xpath}\n{}", self.text()), || {
            let Element(id) = self.try_find(xpath)?;
            self.try_command("POST", &format!("/element/{id}/click"), Some(&json!({}))).ok()
        });
    }

    /// Waits for a button of this name that is shown, and clicks it.
    #[track_caller]
    pub(crate) fn press(&self, name: &str) {
        self.click(&format!("//button[not(@hidden)][normalize-space()='{name}' or @aria-label='{name}']"));
    }

    /// Clicks a button of the open dialog.
    #[track_caller]
    pub(crate) fn press_in_dialog(&self, name: &str) {
        self.click(&format!("//dialog//button[normalize-space()='{name}']"));
    }

    /// Returns the field of a label that begins so.
    #[track_caller]
    pub(crate) fn field(&self, label: &str) -> Element {
        self.find(&format!(
            "(//dialog|//main[not(//dialog)])//*[@id=(//label[starts-with(normalize-space(),'{label}')]/@for)]"
        ))
    }

    /// Does something with a field, again with the new one if the page has drawn it anew meanwhile.
    #[track_caller]
    fn with_field<T>(&self, label: &str, act: impl Fn(&str) -> Result<T, Value>) -> T {
        eventually(&format!("the field {label}\n{}", self.text()), || {
            let Element(id) = self.field(label);
            match act(&id) {
                Ok(done) => Some(done),
                Err(error) if error["error"] == "stale element reference" => None,
                Err(error) => panic!("the field {label}: {error}"),
            }
        })
    }

    /// Writes into a field, in the place of what stands there.
    #[track_caller]
    pub(crate) fn fill(&self, label: &str, text: &str) {
        self.with_field(label, |id| {
            self.try_command("POST", &format!("/element/{id}/clear"), Some(&json!({})))?;
            self.try_command("POST", &format!("/element/{id}/value"), Some(&json!({ "text": text })))
        });
    }

    /// Chooses an option of a list by its text.
    #[track_caller]
    pub(crate) fn choose(&self, label: &str, option: &str) {
        let body = json!({ "using": "xpath", "value": format!("./option[starts-with(normalize-space(),'{option}')]") });
        self.with_field(label, |id| {
            let found = self.try_command("POST", &format!("/element/{id}/element"), Some(&body))?;
            let option = found[ELEMENT].as_str().unwrap();
            self.try_command("POST", &format!("/element/{option}/click"), Some(&json!({})))
        });
    }

    /// Returns the value of a field.
    #[track_caller]
    pub(crate) fn value(&self, label: &str) -> String {
        let value =
            self.with_field(label, |id| self.try_command("GET", &format!("/element/{id}/property/value"), None));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Returns all text that the page shows.
    pub(crate) fn text(&self) -> String {
        self.script("return document.body.innerText", &[]).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows a text.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        eventually(&format!("`{text}` in the page"), || self.text().contains(text).then_some(()));
    }

    /// Runs a script, which may return a promise.
    #[track_caller]
    pub(crate) fn script(&self, script: &str, arguments: &[Value]) -> Value {
        self.command("POST", "/execute/sync", Some(&json!({ "script": script, "args": arguments })))
    }

    /// Presses keys, whatever has the focus.
    pub(crate) fn keys(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })))
            .collect();
        let body = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.command("POST", "/actions", Some(&body));
    }

    /// Returns what the browser has complained about: errors of scripts, and breaches of the policy.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.command("POST", "/se/log", Some(&json!({ "type": "browser" })));
        let entries = log.as_array().cloned().unwrap_or_default();
        let serious = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        serious.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Writes a picture of the page to a file.
    pub(crate) fn picture(&self, file: &Path) {
        let picture = self.command("GET", "/screenshot", None);
        let bytes = base64(picture.as_str().unwrap());
        std::fs::write(file, bytes).unwrap();
    }

    /// Writes a picture of the whole page, also of what lies below the window.
    pub(crate) fn whole_picture(&self, file: &Path) {
        let size =
            self.script("const page = document.documentElement; return [page.scrollWidth, page.scrollHeight]", &[]);
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let shot =
            json!({ "cmd": "Page.captureScreenshot", "params": { "captureBeyondViewport": true, "clip": clip } });
        let picture = self.command("POST", "/goog/cdp/execute", Some(&shot));
        std::fs::write(file, base64(picture["data"].as_str().unwrap())).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser with its session; the driver is killed then.
        let _ = self.try_command("DELETE", "", None);
    }
}

/// Reads base64 (RFC 4648).
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().enumerate().fold(0u32, |bits, (at, digit)| bits | u32::from(*digit) << (18 - 6 * at));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
