//! `docs/configuration.md` describes the settings as the code defines them.

use std::{env, fmt::Write, fs};

use storgo::config::{FLAGS, PROFILES, Setting, TABLE};

/// The heading above the part that this test writes.
const HEADING: &str = "## Settings\n";

fn describe(setting: &Setting) -> String {
    let code = |text: &str| if text.is_empty() { "none".into() } else { format!("`{text}`") };
    let each = |text: &str| text.split(", ").map(code).collect::<Vec<_>>().join(", ");
    let several = if setting.list { " Takes several values." } else { "" };
    let mut text = format!("### `{}`\n\n{}.{several}\n\n", setting.key, setting.doc);
    let default = if setting.list { each(setting.default) } else { code(setting.default) };
    let _ = writeln!(text, "- default: {default}");
    for (profile, values) in PROFILES {
        for (_, value) in values.iter().filter(|(key, _)| *key == setting.key) {
            let _ = writeln!(
                text,
                "- with `--profile {profile}`: {}",
                if setting.list { each(value) } else { code(value) }
            );
        }
    }
    if !setting.secret {
        let _ = writeln!(text, "- example: `{}`", setting.example);
    }
    for (_, flag, value) in FLAGS.iter().filter(|(key, ..)| *key == setting.key) {
        let _ =
            writeln!(text, "- flag: `--{flag}{}`", value.map(|name| format!(" {name}")).unwrap_or_default());
    }
    let file = if setting.secret {
        format!(", or `{}_FILE` with the path of a file", setting.env())
    } else {
        String::new()
    };
    let _ = writeln!(text, "- variable: `{}`{file}\n", setting.env());
    text
}

#[test]
fn the_configuration_reference_describes_every_setting_as_the_code_defines_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let text = fs::read_to_string(path).expect("the reference");
    let (prose, _) = text.split_once(HEADING).expect("the heading");
    let settings: String = TABLE.iter().map(describe).collect();
    let expected = format!("{prose}{HEADING}\n{}\n", settings.trim_end());
    if env::var_os("STORGO_TEST_WRITE").is_some() {
        fs::write(path, &expected).expect("written");
    } else {
        assert_eq!(text, expected, "run this test with STORGO_TEST_WRITE=1 to write the reference anew");
    }
}
