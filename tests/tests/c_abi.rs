//! The C ABI from C and C++: compiled with every warning an error, linked statically and dynamically, run under
//! Valgrind.

use std::path::{Path, PathBuf};
use streamlink_tests::{
    peer::{built, run, target},
    root,
};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn compile(compiler: &str, language: &str, source: &Path, program: &Path, is_static: bool) {
    let include = format!("-I{}", root().join("include").display());
    let standard = if language == "c" { "-std=c99" } else { "-std=c++17" };
    let library = target().join(if is_static { "libstreamlink.a" } else { "libstreamlink.so" });
    let rpath = format!("-Wl,-rpath,{}", target().display());
    let mut arguments = vec![standard, "-x", language, "-g", &include];
    arguments.extend(WARNINGS);
    arguments.extend([source.to_str().unwrap(), "-x", "none", library.to_str().unwrap(), &rpath]);
    arguments.extend(["-lpthread", "-ldl", "-lm", "-o", program.to_str().unwrap()]);
    run(compiler, &arguments);
}

#[test]
fn a_c_program_uses_the_library_and_leaks_nothing() {
    built(&["-p", "streamlink-ffi"]);
    let folder = tempfile::tempdir().unwrap();
    for (compiler, language) in [("gcc", "c"), ("clang", "c"), ("g++", "c++"), ("clang++", "c++")] {
        for is_static in [false, true] {
            let program: PathBuf = folder.path().join(format!("{compiler}-{is_static}"));
            compile(compiler, language, &root().join("tests/c/lifecycle.c"), &program, is_static);
            let path = program.to_str().unwrap();
            assert_eq!(run(path, &[]), "ok\n", "{path}");
            if compiler == "gcc" {
                let said = run(
                    "valgrind",
                    &["-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite", path],
                );
                assert!(said.contains("ok"), "{said}");
            }
        }
    }
}

#[test]
fn the_c_of_the_readme_compiles_and_runs() {
    built(&["-p", "streamlink-ffi"]);
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let code = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("readme.c"), folder.path().join("readme"));
    std::fs::write(&source, code).unwrap();
    compile("gcc", "c", &source, &program, false);
    assert!(run(program.to_str().unwrap(), &[]).starts_with("libstreamlink "));
}
