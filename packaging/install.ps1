<#
.SYNOPSIS
Installs the client spa-knock from a release, or removes it. Needs no administrator. PowerShell 5 or newer.
.DESCRIPTION
Everything is verified before the first file of an installation changes. $env:SPA_KNOCK_RELEASE_URL is a directory or an
https:// URL with the files of the release.
.PARAMETER Prefix
Install below this directory instead of %LOCALAPPDATA%\Programs\spa-knock.
.PARAMETER Uninstall
Remove the program; keep keys and profiles.
#>
[CmdletBinding()]
param(
    [string] $Prefix = (Join-Path $env:LOCALAPPDATA 'Programs\spa-knock'),
    [switch] $Uninstall
)

Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'
# The progress bar of PowerShell 5 makes downloads many times slower.
$ProgressPreference = 'SilentlyContinue'

$Version = '@VERSION@'
$Release = '@RELEASE_URL@'
if ($env:SPA_KNOCK_RELEASE_URL) { $Release = $env:SPA_KNOCK_RELEASE_URL }
$Release = $Release.TrimEnd('/', '\')
# minisign's public key, which signs the checksums. Empty if the release is not signed.
$PublicKey = '@PUBLIC_KEY@'
$Name = "spa-knock-$Version-x86_64-pc-windows-gnu"

function Get-ReleaseFile([string] $File, [string] $Directory) {
    $target = Join-Path $Directory $File
    if ($Release -match '^https://' -or $Release -match '^http://(127\.0\.0\.1|localhost)[:/]') {
        # Windows PowerShell 5 does not use TLS 1.2 by itself.
        [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
        Invoke-WebRequest -UseBasicParsing -Uri "$Release/$File" -OutFile $target
    } elseif ($Release -match '^[A-Za-z][A-Za-z0-9+.-]+://') {
        throw "SPA_KNOCK_RELEASE_URL=${Release}: neither a directory nor an https:// URL"
    } else {
        Copy-Item -LiteralPath (Join-Path $Release $File) -Destination $target
    }
}

function Confirm-Signature([string] $Directory) {
    if (-not $PublicKey) { return }
    if (-not (Get-Command minisign -CommandType Application -ErrorAction SilentlyContinue)) {
        Write-Host 'the signature is not verified: minisign is not installed'
        return
    }
    Get-ReleaseFile 'SHA256SUMS.minisig' $Directory
    & minisign -V -q -P $PublicKey -m (Join-Path $Directory 'SHA256SUMS') -x (Join-Path $Directory 'SHA256SUMS.minisig')
    if ($LASTEXITCODE -ne 0) { throw 'SHA256SUMS: wrong signature: the files are not of this release; nothing is installed' }
}

function Confirm-Checksum([string] $Directory) {
    $lines = @(Get-Content -LiteralPath (Join-Path $Directory 'SHA256SUMS') | Where-Object { $_ -match "^[0-9a-f]{64}  $([regex]::Escape($Name))\.zip$" })
    if ($lines.Count -ne 1) { throw "SHA256SUMS: the release has no $Name.zip; nothing is installed" }
    $expected = $lines[0].Substring(0, 64)
    $actual = (Get-FileHash -Algorithm SHA256 -LiteralPath (Join-Path $Directory "$Name.zip")).Hash.ToLowerInvariant()
    if ($actual -ne $expected) {
        throw "$Name.zip: SHA-256 is $actual, but SHA256SUMS has ${expected}: damaged or altered; nothing is installed"
    }
}

# The user's own PATH as written, with %VARIABLES% that stay as they are.
function Get-UserPath {
    $key = [Microsoft.Win32.Registry]::CurrentUser.OpenSubKey('Environment')
    try { return @("$($key.GetValue('Path', '', 'DoNotExpandEnvironmentNames'))" -split ';' | Where-Object { $_ }) } finally { $key.Dispose() }
}

function Set-UserPath([string[]] $Entries) {
    $key = [Microsoft.Win32.Registry]::CurrentUser.OpenSubKey('Environment', $true)
    try { $key.SetValue('Path', ($Entries -join ';'), 'ExpandString') } finally { $key.Dispose() }
    # Programs that start from now on see it: setting any variable announces a change.
    [Environment]::SetEnvironmentVariable('SPA_KNOCK_INSTALL', '1', 'User')
    [Environment]::SetEnvironmentVariable('SPA_KNOCK_INSTALL', $null, 'User')
}

function Install-SpaKnock {
    if (-not [Environment]::Is64BitOperatingSystem) { throw 'this Windows has 32 bits: there is no archive for it' }
    if ((Test-Path -LiteralPath $Prefix) -and -not (Test-Path -LiteralPath (Join-Path $Prefix 'spa-knock.exe'))) {
        if (@(Get-ChildItem -LiteralPath $Prefix -Force).Count -gt 0) {
            throw "${Prefix}: not of install.ps1; nothing is installed. Move it away, or use another -Prefix"
        }
    }
    $scratch = Join-Path ([IO.Path]::GetTempPath()) ('spa-knock-' + [guid]::NewGuid())
    New-Item -ItemType Directory -Path $scratch | Out-Null
    $new = "$Prefix.new"
    $old = "$Prefix.old"
    try {
        Get-ReleaseFile 'SHA256SUMS' $scratch
        Confirm-Signature $scratch
        Get-ReleaseFile "$Name.zip" $scratch
        Confirm-Checksum $scratch
        Expand-Archive -LiteralPath (Join-Path $scratch "$Name.zip") -DestinationPath $scratch
        $tree = Join-Path $scratch $Name
        $printed = "$(& (Join-Path $tree 'spa-knock.exe') --version)".Trim()
        if ($printed -ne "spa-knock $Version") { throw 'the program does not run here; nothing is installed' }
        # Beside its place, where it can be renamed.
        foreach ($path in $new, $old) { if (Test-Path -LiteralPath $path) { Remove-Item -Recurse -Force -LiteralPath $path } }
        $parent = Split-Path -Parent $Prefix
        if (-not (Test-Path -LiteralPath $parent)) { New-Item -ItemType Directory -Path $parent | Out-Null }
        Copy-Item -Recurse -LiteralPath $tree -Destination $new
        if (Test-Path -LiteralPath $Prefix) { Move-Item -LiteralPath $Prefix -Destination $old }
        try {
            Move-Item -LiteralPath $new -Destination $Prefix
        } catch {
            if (Test-Path -LiteralPath $old) { Move-Item -LiteralPath $old -Destination $Prefix }
            throw
        }
    } finally {
        foreach ($path in $scratch, $new, $old) {
            if (Test-Path -LiteralPath $path) { Remove-Item -Recurse -Force -LiteralPath $path -ErrorAction SilentlyContinue }
        }
    }
    Write-Host "installed spa-knock ${Version}: $(Join-Path $Prefix 'spa-knock.exe')"
    $entries = @(Get-UserPath)
    if ($entries -notcontains $Prefix) {
        Set-UserPath ($entries + $Prefix)
        Write-Host "added $Prefix to your PATH: open a new terminal"
    }
    Write-Host "completions: add this line to `$PROFILE: . '$(Join-Path $Prefix 'completions\spa-knock.ps1')'"
}

function Uninstall-SpaKnock {
    if (-not (Test-Path -LiteralPath (Join-Path $Prefix 'spa-knock.exe'))) { throw "${Prefix}: install.ps1 has installed nothing there" }
    Remove-Item -Recurse -Force -LiteralPath $Prefix
    $entries = @(Get-UserPath)
    if ($entries -contains $Prefix) { Set-UserPath @($entries | Where-Object { $_ -ne $Prefix }) }
    Write-Host "removed $Prefix; keys and profiles stay"
}

$Prefix = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Prefix).TrimEnd('\', '/')
if ($Uninstall) { Uninstall-SpaKnock } else { Install-SpaKnock }
