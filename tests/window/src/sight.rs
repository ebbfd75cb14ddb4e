//! What can be seen in a window, and clicks on it.

use std::time::Duration;

use anyhow::Context;
use fantoccini::elements::Element;
use fantoccini::{Client, Locator};

use crate::desktop::PATIENCE;
use crate::wait_for;

/// Waits until an element is there. What was there instead is kept as a picture.
///
/// # Errors
/// It did not come.
pub async fn see(window: &Client, xpath: &str) -> anyhow::Result<Element> {
    let wait = window.wait().at_most(PATIENCE).every(Duration::from_millis(50));
    match wait.for_element(Locator::XPath(xpath)).await {
        Ok(element) => Ok(element),
        Err(error) => {
            // target/debug/deps/window-0123 → target/tmp
            let exe = std::env::current_exe()?;
            let dir = exe.ancestors().nth(3).context("a test lies in target")?.join("tmp");
            std::fs::create_dir_all(&dir)?;
            let picture = dir.join("not-seen.png");
            std::fs::write(&picture, window.screenshot().await?)?;
            Err(error).with_context(|| format!("{xpath} is not there, see {}", picture.display()))
        }
    }
}

/// Clicks on an element once it is there.
///
/// # Errors
/// It did not come, or something lies over it.
pub async fn click(window: &Client, xpath: &str) -> anyhow::Result<()> {
    see(window, xpath).await?.click().await?;
    Ok(())
}

/// Keeps what is seen as pictures in `COVE_TEST_PICTURES`, light and dark, in a large and a small window.
///
/// # Errors
/// The window can't be resized, or the pictures not be written.
pub async fn picture(window: &Client, name: &str) -> anyhow::Result<()> {
    let Some(dir) = std::env::var_os("COVE_TEST_PICTURES").map(std::path::PathBuf::from) else {
        return Ok(());
    };
    for (width, height) in [(1280, 800), (900, 600)] {
        window.set_window_size(width, height).await?;
        for theme in ["dark", "light"] {
            let script = format!("document.documentElement.dataset.theme = '{theme}'");
            window.execute(&script, vec![]).await?;
            // Drawn anew.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let path = dir.join(format!("{name}-{width}-{theme}.png"));
            std::fs::write(path, window.screenshot().await?)?;
        }
    }
    window.set_window_size(1280, 800).await?;
    Ok(())
}

/// Waits until an element is gone.
///
/// # Errors
/// It stayed.
pub async fn gone(window: &Client, xpath: &str) -> anyhow::Result<()> {
    wait_for(xpath, PATIENCE.as_secs(), async || {
        Ok(window.find_all(Locator::XPath(xpath)).await?.is_empty().then_some(()))
    })
    .await
}

/// Types into a field once it is there.
///
/// # Errors
/// It did not come.
pub async fn fill(window: &Client, xpath: &str, text: &str) -> anyhow::Result<()> {
    see(window, xpath).await?.send_keys(text).await?;
    Ok(())
}
