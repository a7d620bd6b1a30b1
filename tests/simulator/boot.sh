#!/bin/bash
# First process of a machine: builds its root folder, starts sshd, waits for poweroff (exit 64) or reboot (65).
#
#   boot.sh FOLDER    FOLDER is written by machine.py; in new mount, pid, uts and ipc namespaces unless MODE=plain
#
# The machine sees the host's programs and /opt, its own /home, /tmp, /run and accounts, and nothing else.
set -euo pipefail
umask 022
inside=$1
root=$inside/root
. "$inside/machine.conf" # MODE, SSHD, HOSTNAME_INSIDE, SHARE (from, to, …), DISK_MB, OWN_NETWORK

share() { # PATH [AT]: the host's file or folder, seen in the machine at AT or the same place
  local at=$root${2:-$1}
  if [ -d "$1" ]; then mkdir -p "$at"; else mkdir -p "${at%/*}" && : >>"$at"; fi
  mount --rbind "$1" "$at"
}

build_root() {
  local path
  mkdir -p "$root"
  mount -t tmpfs -o mode=755 machine "$root"
  for path in /usr /bin /sbin /lib /lib32 /lib64 /libx32 /etc /opt /dev /sys /var; do
    if [ -L "$path" ]; then cp -P "$path" "$root$path"; elif [ -d "$path" ]; then share "$path"; fi
  done
  mkdir -p "$root"/{proc,run/sshd,run/lock,root,mnt,srv,lambda/nfs}
  chmod 700 "$root/root"
  mount -t proc proc "$root/proc"
  mkdir "$root/run/machine"
  mount --bind "$inside" "$root/run/machine" # not recursively: the root folder is in it
}

own_places() {
  local name
  share "$inside/home" /home
  share "$inside/tmp" /tmp
  share "$inside/tmp" /var/tmp
  mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
  mount --bind "$inside/boot_id" "$root/proc/sys/kernel/random/boot_id"
  for name in passwd group shadow hosts hostname; do share "$inside/etc/$name" "/etc/$name"; done
  [ "$OWN_NETWORK" = 1 ] || network_names
}

network_names() { # /etc/resolv.conf is often a link into /run, which is hidden here
  local target
  target=$(readlink -f /etc/resolv.conf) || return 0
  [[ $target != /run/* ]] || install -D -m 644 "$target" "$root$target"
}

# /usr/local/bin of the host with the machine's own commands laid over it, by links: no overlayfs is needed.
own_commands() {
  local name links=()
  share /usr/local/bin /run/host-bin
  for name in $(ls "$root/run/host-bin"); do
    [ -e "$inside/bin/$name" ] || [ -L "$inside/bin/$name" ] || links+=("/run/host-bin/$name")
  done
  [ ${#links[@]} = 0 ] || ln -s -t "$inside/bin" "${links[@]}"
  share "$inside/bin" /usr/local/bin
}

own_libraries() {
  [ -e "$inside/lib/libcuda.so.1" ] || return 0
  if [ ! -e "$inside/etc/ld.so.cache" ]; then
    { cat /etc/ld.so.conf; echo /run/machine/lib; } >"$inside/etc/ld.so.conf" 2>/dev/null
    chroot "$root" ldconfig -X -f /run/machine/etc/ld.so.conf -C /run/machine/etc/ld.so.cache
  fi
  mount --bind "$inside/etc/ld.so.cache" "$root/etc/ld.so.cache"
}

small_disk() { # the home is then in memory and forgotten by a reboot
  mount -t tmpfs -o "size=${DISK_MB}m,mode=755" disk "$root/home"
  cp -a "$inside/home/." "$root/home/"
}

enter() { # the host's root folder is left behind, for good
  mkdir "$root/.host"
  cd "$root"
  pivot_root . .host
  umount -l /.host
  rmdir /.host
}

become_machine() {
  local n
  hostname "$HOSTNAME_INSIDE"
  [ "$OWN_NETWORK" = 0 ] || ip link set lo up
  build_root
  own_places
  [ "$DISK_MB" = 0 ] || small_disk
  for ((n = 0; n < ${#SHARE[@]}; n += 2)); do share "${SHARE[n]}" "${SHARE[n + 1]}"; done
  own_commands
  own_libraries
  enter
}

if [ "$MODE" = namespaces ]; then
  become_machine
  inside=/run/machine
fi
{ "$SSHD" -D -e -f "$inside/etc/sshd_config"; echo "sshd ended" >"$inside/power"; } </dev/null &
exec 8<>"$inside/power" # poweroff and reboot write a word here
read -r word <&8
case $word in poweroff) exit 64 ;; reboot) exit 65 ;; esac
exit 70
