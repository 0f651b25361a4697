"""Repositories made of nothing, for a Bazel 4 that cannot download any.

With them the one BUILD file loads and its tests run without a network: rules
are those built into Bazel, third-party packages those of the `python3` that is
first on the PATH.
"""

def _native_rules_impl(ctx):
    ctx.file(ctx.attr.language + "/BUILD")
    ctx.file(
        ctx.attr.language + "/defs.bzl",
        "\n".join(["%s = native.%s" % (rule, rule) for rule in ctx.attr.rules]),
    )

native_rules = repository_rule(
    implementation = _native_rules_impl,
    attrs = {
        "language": attr.string(mandatory = True),
        "rules": attr.string_list(mandatory = True),
    },
)

def _interpreter_packages_impl(ctx):
    for package in ctx.attr.packages:
        ctx.file(
            package + "/BUILD",
            "py_library(name = \"%s\", visibility = [\"//visibility:public\"])" %
            package,
        )

interpreter_packages = repository_rule(
    implementation = _interpreter_packages_impl,
    attrs = {"packages": attr.string_list(mandatory = True)},
)
