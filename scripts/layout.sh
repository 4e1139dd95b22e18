# Which files are installed where: the same for the package and for scripts/install.
# shellcheck shell=bash
# shellcheck disable=SC2154 # top is set by lib.sh

# lay_out BINARIES TREE PREFIX UNITS ZSH [PRINTERS]: puts all files below the folder TREE as they will be below /: programs and their
# files in PREFIX, units in UNITS, completions of zsh in PREFIX/share/zsh/ZSH. PRINTERS has the same programs for this
# machine, if BINARIES cannot run here.
lay_out() {
    local from=$1 tree=$2 prefix=$3 units=$4 zsh=$5 printers=${6:-$1} share doc program section page unit folder
    share=$tree$prefix/share doc=$tree$prefix/share/doc/spa-knock
    # Everyone can read installed files, whatever the umask of the build is.
    umask 022

    install -D "$from/spa-knock" "$tree$prefix/bin/spa-knock"
    install -D "$from/spa-knockd" "$tree$prefix/sbin/spa-knockd"
    # spa-knockd looks for its watchers there.
    for program in spa-knock{,-legacy,-fwknop}-watcher; do
        install -D "$from/$program" "$tree$prefix/libexec/spa-knock/$program"
    done
    # The store process of a fleet, which only builds with the feature have.
    if [[ -e $from/spa-knock-store ]]; then install -D "$from/spa-knock-store" "$tree$prefix/libexec/spa-knock/spa-knock-store"; fi
    if [[ $printers != "$from" ]]; then
        : # The linker has stripped them: this machine's strip cannot.
    elif command -v strip >/dev/null; then
        strip "$tree$prefix/bin/spa-knock" "$tree$prefix/sbin/spa-knockd" "$tree$prefix"/libexec/spa-knock/*
    else
        echo 'strip (binutils) is missing: the programs keep their symbols and are larger'
    fi

    install -d "$tree/etc/spa-knock" "$tree$units"
    install -d -m 700 "$tree/etc/spa-knock/keys"
    for unit in spa-knockd.service spa-knock-gate.service spa-knockd-legacy.service spa-knockd-fwknopd.service; do
        sed "s|/usr/local/sbin|$prefix/sbin|g" "$top/packaging/$unit" >"$tree$units/$unit"
    done

    install -D -m 644 "$top/packaging/logrotate" "$tree/etc/logrotate.d/spa-knock"

    install -d "$share/man/man"{1,5,8} "$share/bash-completion/completions" "$share/zsh/$zsh" "$share/fish/vendor_completions.d"
    for page in "$top"/docs/man/*.5; do gzip -9nc "$page" >"$share/man/man5/${page##*/}.gz"; done
    for program in spa-knock:1 spa-knockd:8; do
        section=${program#*:} program=${program%:*}
        "$printers/$program" man | gzip -9nc >"$share/man/man$section/$program.$section.gz"
        "$printers/$program" completions bash >"$share/bash-completion/completions/$program"
        "$printers/$program" completions zsh >"$share/zsh/$zsh/_$program"
        "$printers/$program" completions fish >"$share/fish/vendor_completions.d/$program.fish"
    done

    install -d "$doc/examples/spa-knockd.service.d"
    install -m 644 "$top"/{README,SECURITY,CHANGELOG}.md "$top"/docs/{index,glossary}.md "$top/docs/output.schema.json" "$doc"
    for folder in guide reference internals images; do
        install -d "$doc/$folder"
        install -m 644 "$top/docs/$folder"/* "$doc/$folder"
    done
    cat "$top/LICENSE-MIT" "$top/LICENSE-APACHE" >"$doc/copyright"
    install -m 644 "$top/packaging/spa-knockd.toml" "$top/keys.example" "$doc/examples"
    install -m 644 "$top"/packaging/spa-knockd.service.d/* "$doc/examples/spa-knockd.service.d"
}
