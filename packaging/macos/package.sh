#!/bin/sh
# Makes the signed and notarized installer of macOS, on a Mac with Xcode's command line tools:
#   packaging/macos/package.sh PROGRAMS OUT VERSION [GUEST]
# PROGRAMS holds cove, cove-machine and cove-desktop; GUEST, guest images. Of the environment:
#   COVE_SIGN_APPLICATION  the identity that signs programs ("Developer ID Application: …"); "-" signs ad hoc, for this Mac
#   COVE_SIGN_INSTALLER    the identity that signs the installer; without it, it stays unsigned
#   COVE_NOTARY_PROFILE    a profile of "notarytool store-credentials"; without it, nothing is sent to Apple
set -eu

if [ $# -lt 3 ]; then
    echo "usage: package.sh PROGRAMS OUT VERSION [GUEST]" >&2
    exit 2
fi
programs=$1 out=$2 version=$3 guest=${4:-}
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
identity=${COVE_SIGN_APPLICATION:?names the identity that signs programs, or is - to sign ad hoc}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
app=$root/Applications/Cove.app
mkdir -p "$app/Contents/MacOS" "$app/Contents/Resources" "$work/resources" "$work/packages" "$out"
for program in cove cove-machine cove-desktop; do
    install -m 755 "$programs/$program" "$app/Contents/MacOS/$program"
done
sed "s/@VERSION@/$version/g" "$here/Info.plist" >"$app/Contents/Info.plist"
sed "s/@VERSION@/$version/g" "$here/Distribution.xml" >"$work/Distribution.xml"
cp "$top/LICENSE" "$work/resources/LICENSE"

icons=$work/cove.iconset
mkdir "$icons"
for size in 16 32 128 256 512; do
    sips -z $size $size "$top/src-tauri/icons/icon.png" --out "$icons/icon_${size}x$size.png" >/dev/null
done
iconutil -c icns -o "$app/Contents/Resources/cove.icns" "$icons"

install -d "$root/Library/LaunchAgents" "$root/Library/LaunchDaemons" "$root/usr/local/bin"
install -m 644 "$here/dev.cove.machine.login.plist" "$root/Library/LaunchAgents/"
install -m 644 "$here/dev.cove.machine.boot.plist" "$root/Library/LaunchDaemons/"
for program in cove cove-machine; do
    ln -s "/Applications/Cove.app/Contents/MacOS/$program" "$root/usr/local/bin/$program"
done
if [ -n "$guest" ]; then
    install -d "$root/Library/Application Support/Cove"
    cp -R "$guest" "$root/Library/Application Support/Cove/guest"
fi

# From the inside out: what is in a bundle is sealed by the bundle's signature. A notarized program has the hardened
# runtime and a time stamp, which an ad hoc signature can't have.
sign() {
    if [ "$identity" = - ]; then
        codesign --force --sign - "$@"
    else
        codesign --force --sign "$identity" --options runtime --timestamp "$@"
    fi
}
sign --identifier dev.cove.cli "$app/Contents/MacOS/cove"
sign --identifier dev.cove.machine --entitlements "$here/entitlements.plist" "$app/Contents/MacOS/cove-machine"
sign "$app"
codesign --verify --strict --deep "$app"

pkgbuild --root "$root" --component-plist "$here/components.plist" --identifier dev.cove.pkg --version "$version" \
    --ownership recommended "$work/packages/cove.pkg"
set -- --distribution "$work/Distribution.xml" --package-path "$work/packages" --resources "$work/resources"
if [ -n "${COVE_SIGN_INSTALLER:-}" ]; then
    set -- "$@" --sign "$COVE_SIGN_INSTALLER" --timestamp
fi
package=$out/Cove-$version.pkg
productbuild "$@" "$package"
if [ -n "${COVE_NOTARY_PROFILE:-}" ]; then
    xcrun notarytool submit "$package" --keychain-profile "$COVE_NOTARY_PROFILE" --wait
    xcrun stapler staple "$package"
fi
echo "$package"
